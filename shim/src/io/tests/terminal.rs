//! Terminals.

use std::os::fd::{AsFd, AsRawFd};

use nix::{
    pty::openpty,
    sys::{
        socket::{ControlMessage, MsgFlags, sendmsg},
        termios::tcgetattr,
    },
};

use super::*;

/// Does what a runtime does with a console socket: the process's side.
async fn send_terminal(address: PathBuf) -> OwnedFd {
    let pty = openpty(None, None).unwrap();
    let stream = tokio::net::UnixStream::connect(address).await.unwrap();
    let stream = stream.into_std().unwrap();
    let fds = [pty.master.as_raw_fd()];
    let text = [io::IoSlice::new(b"/dev/ptmx")];
    let rights = [ControlMessage::ScmRights(&fds)];
    let socket = stream.as_raw_fd();
    sendmsg::<()>(socket, &text, &rights, MsgFlags::empty(), None).unwrap();
    pty.slave
}

#[test]
fn a_terminal_carries_both_directions() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { terminal: true, ..client.stdio() };
        let stdout = client.read("stdout");
        let (io, child) = client.open(&stdio, &reaper).await;
        let ChildStdio::Console(address) = child else { panic!("no terminal") };
        assert_eq!(io.resize(1, 1).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        let slave = send_terminal(address).await;
        io.attach_console().await.unwrap();
        io.attach_console().await.unwrap();
        assert!(tcgetattr(slave.as_fd()).is_ok());
        io.resize(123, 45).unwrap();

        // The process's side is closed and opened again, as init systems do.
        let fds = || ChildStdio::Fds {
            stdin: Some(slave.try_clone().unwrap()),
            stdout: Some(slave.try_clone().unwrap()),
            stderr: None,
        };
        let child = start("stty size", fds(), &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        let child = start("read x; echo got $x", fds(), &reaper);
        drop(slave);
        client.write("stdin").write_all(b"word\n").unwrap();
        assert_eq!(within(child.exit).await.status, 0);
        io.process_ended();

        assert!(io.drained(LIMIT).await);
        assert_eq!(within(stdout).await.unwrap(), "45 123\r\nword\r\ngot word\r\n");
        within(io.close()).await;
    });
}

#[test]
fn a_terminals_output_is_read_even_if_nobody_wants_it() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { terminal: true, ..Stdio::default() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let ChildStdio::Console(address) = child else { panic!("no terminal") };
        let slave = send_terminal(address).await;
        io.attach_console().await.unwrap();
        let stdio = ChildStdio::Fds { stdin: None, stdout: Some(slave), stderr: None };
        let child = start("yes | head -n 100000", stdio, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        io.process_ended();
        assert!(io.drained(LIMIT).await);
        within(io.close()).await;
        let left = fs::read_dir(client.dir.path()).unwrap().count();
        assert_eq!(left, 3, "the console socket is gone");
    });
}

#[test]
fn a_terminal_in_a_deep_folder() {
    run(async |reaper| {
        let client = Client::new();
        let deep = client.path(&"x".repeat(200));
        fs::create_dir(&deep).unwrap();
        let owner = Owner { dir: &deep, ..client.owner() };
        let stdio = Stdio { terminal: true, ..Stdio::default() };
        let (io, child) = ProcessIo::open(&stdio, &owner, &reaper).await.unwrap();
        let ChildStdio::Console(address) = child else { panic!("no terminal") };
        let _slave = send_terminal(address).await;
        io.attach_console().await.unwrap();
    });
}

/// The client has made a terminal of its own, and gave its path.
#[test]
fn a_clients_terminal_carries_both_directions_unchanged() {
    run(async |reaper| {
        let client = Client::new();
        let theirs = openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&theirs.slave).unwrap();
        drop(theirs.slave);
        let path = path.into_os_string().into_string().unwrap();
        let stdio =
            Stdio { terminal: true, stdin: path.clone(), stdout: path, stderr: String::new() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let ChildStdio::Console(address) = child else { panic!("no terminal") };
        let slave = send_terminal(address).await;
        io.attach_console().await.unwrap();
        let mut screen = std::fs::File::from(theirs.master);
        screen.write_all(b"word\n").unwrap();
        let stdio = ChildStdio::Fds {
            stdin: Some(slave.try_clone().unwrap()),
            stdout: Some(slave),
            stderr: None,
        };
        let child = start("read x; echo got $x", stdio, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        io.process_ended();
        assert!(io.drained(LIMIT).await);
        within(io.close()).await;
        // With its last other side closed, the terminal is at its end.
        let mut text = Vec::new();
        assert_eq!(screen.read_to_end(&mut text).unwrap_err().raw_os_error(), Some(nix::libc::EIO));
        assert_eq!(String::from_utf8(text).unwrap(), "word\r\ngot word\r\n");
    });
}
