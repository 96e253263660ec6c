//! Terminals.

use std::{
    fs::File,
    io::{IoSliceMut, Read},
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::net::UnixListener,
    },
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use crate::harness::Bed;

/// Takes the terminal that the runtime sends.
fn receive(listener: &UnixListener) -> File {
    let (stream, _) = listener.accept().unwrap();
    let mut text = [0; 256];
    let mut space = nix::cmsg_space!([nix::libc::c_int; 1]);
    let mut buffers = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut buffers, Some(&mut space), flags).unwrap();
    let fd = message.cmsgs().unwrap().find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    #[allow(unsafe_code, reason = "the message has just brought the descriptor")]
    // SAFETY: the kernel has made it for us, nobody else owns it.
    unsafe {
        File::from_raw_fd(fd.unwrap())
    }
}

/// What comes out of a terminal until nobody writes to it any more.
fn read_all(mut master: File) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    // With the last writer gone reading fails (EIO).
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn of_the_first_process_and_of_an_added_one() {
    let script = "tty; stty size; [ -c /dev/console ] && echo console; sleep 1000 </dev/null >/dev/null 2>&1";
    let Some(bed) = Bed::new("tty", script) else { return };
    let bed = bed
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"width": 132, "height": 50}));
    std::fs::write(bed.path("config.json"), bed.config.to_string()).unwrap();
    let socket = bed.path("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let socket = socket.display().to_string();
    bed.ok(&["create", "--console-socket", &socket, &bed.id]);
    let master = receive(&listener);
    bed.ok(&["start", &bed.id]);
    let mut seen = String::new();
    let mut reader = master.try_clone().unwrap();
    while !seen.ends_with("console\r\n") {
        let mut buffer = [0; 1024];
        let count = reader.read(&mut buffer).unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert_eq!(seen, "/dev/pts/0\r\n50 132\r\nconsole\r\n");
    let adding =
        bed.command(&["exec", "--tty", "--console-socket", &socket, &bed.id, "tty"]).spawn();
    let mut adding = adding.unwrap();
    assert_eq!(read_all(receive(&listener)), "/dev/pts/1\r\n");
    assert!(adding.wait().unwrap().success());
}
