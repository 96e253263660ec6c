//! Real FIFOs, pipes, terminals and processes. Tests wait for bytes and ends,
//! never for a time; the limits only end a test that hangs.

use std::{
    fs::OpenOptions,
    future::Future,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::PathBuf,
};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};
use shim_protocol::ErrorKind;
use tempfile::TempDir;

use super::*;
use crate::{
    reaper::Child,
    testing::{id, run, sh},
};

mod terminal;

const LIMIT: Duration = Duration::from_secs(30);

/// A folder with FIFOs, and whatever a client would do with them.
struct Client {
    dir: TempDir,
    namespace: Id,
    id: Id,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["stdin", "stdout", "stderr"] {
            mkfifo(&dir.path().join(name), Mode::S_IRWXU).unwrap();
        }
        Self { dir, namespace: id("ns"), id: id("c") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stdio(&self) -> Stdio {
        let path = |name| self.path(name).into_os_string().into_string().unwrap();
        Stdio {
            stdin: path("stdin"),
            stdout: path("stdout"),
            stderr: path("stderr"),
            terminal: false,
        }
    }

    fn owner(&self) -> Owner<'_> {
        Owner { namespace: &self.namespace, id: &self.id, dir: self.dir.path(), uid: 0, gid: 0 }
    }

    async fn open(&self, stdio: &Stdio, reaper: &Reaper) -> (ProcessIo, ChildStdio) {
        ProcessIo::open(stdio, &self.owner(), reaper).await.unwrap()
    }

    /// Reads a FIFO to its end, as a client does.
    fn read(&self, name: &str) -> tokio::task::JoinHandle<String> {
        let path = self.path(name);
        tokio::task::spawn_blocking(move || fs::read_to_string(path).unwrap())
    }

    fn write(&self, name: &str) -> File {
        OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.path(name))
            .unwrap()
    }
}

/// Starts `sh -c script` with streams as a runtime would hand them on.
fn start(script: &str, stdio: ChildStdio, reaper: &Reaper) -> Child {
    let ChildStdio::Fds { stdin, stdout, stderr } = stdio else { panic!("a terminal") };
    let mut command = sh(script);
    let or_null =
        |fd: Option<OwnedFd>| fd.map_or_else(std::process::Stdio::null, std::process::Stdio::from);
    command.stdin(or_null(stdin)).stdout(or_null(stdout)).stderr(or_null(stderr));
    reaper.spawn(&mut command).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it takes too long")
}

#[test]
fn output_arrives_with_its_end() {
    run(async |reaper| {
        let client = Client::new();
        let (stdout, stderr) = (client.read("stdout"), client.read("stderr"));
        let stdio = Stdio { stdin: String::new(), ..client.stdio() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let child = start("echo out; echo err >&2", child, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        assert!(io.drained(LIMIT).await);
        assert_eq!(within(stdout).await.unwrap(), "out\n");
        assert_eq!(within(stderr).await.unwrap(), "err\n");
        io.close().await;
    });
}

#[test]
fn more_than_a_pipe_holds_arrives_whole() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { stdin: String::new(), stderr: String::new(), ..client.stdio() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let child = start("yes 0123456789 | head -n 100000", child, &reaper);
        let stdout = client.read("stdout");
        assert_eq!(within(child.exit).await.status, 0);
        assert!(io.drained(LIMIT).await);
        assert_eq!(within(stdout).await.unwrap().len(), 100_000 * 11);
    });
}

#[test]
fn a_client_may_leave_and_come_back() {
    run(async |reaper| {
        let client = Client::new();
        let (io, child) = client.open(&client.stdio(), &reaper).await;
        let child = start("while read x; do echo got $x; done", child, &reaper);
        for n in 0..3 {
            // Each client sends a line, reads the answer, and closes both.
            let (input, path) = (client.write("stdin"), client.path("stdout"));
            let answer = within(tokio::task::spawn_blocking(move || {
                (&input).write_all(format!("{n}\n").as_bytes()).unwrap();
                let mut answer = [0; 6];
                File::open(path).unwrap().read_exact(&mut answer).unwrap();
                answer
            }));
            assert_eq!(&answer.await.unwrap(), format!("got {n}\n").as_bytes());
        }
        io.close_stdin();
        io.close_stdin();
        assert_eq!(within(child.exit).await.status, 0);
        assert!(io.drained(LIMIT).await);
    });
}

#[test]
fn input_ends_only_when_asked_and_without_client() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { stderr: String::new(), ..client.stdio() };
        let stdout = client.read("stdout");
        let (io, child) = client.open(&stdio, &reaper).await;
        let child = start("cat", child, &reaper);
        let mut input = client.write("stdin");
        io.close_stdin();
        // The client still has it open: what it writes now counts.
        input.write_all(b"late").unwrap();
        drop(input);
        assert_eq!(within(child.exit).await.status, 0);
        assert!(io.drained(LIMIT).await);
        assert_eq!(within(stdout).await.unwrap(), "late");
    });
}

#[test]
fn output_without_a_client_waits_for_one() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { stdin: String::new(), ..client.stdio() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let child = start("echo kept", child, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        assert!(io.drained(LIMIT).await);
        assert_eq!(within(client.read("stdout")).await.unwrap(), "kept\n");
        // Now nothing is held for it any more.
        let tasks = std::mem::take(&mut *lock(&io.tasks));
        within(tasks.join_all()).await;
    });
}

#[test]
fn a_leaked_pipe_does_not_hold_the_end_for_ever() {
    run(async |reaper| {
        let client = Client::new();
        let (io, child) = client.open(&client.stdio(), &reaper).await;
        // What is left behind ends with its input, and so with the test.
        let child = start("exec 3<&0; read x <&3 &", child, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        // Nothing more comes, though the pipe is open.
        assert!(io.drained(LIMIT).await);
        assert_eq!(*io.open_outputs.borrow(), 2);
        within(io.close()).await;
    });
}

#[test]
fn a_client_that_does_not_read_is_waited_for_up_to_the_limit() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { stdin: String::new(), stderr: String::new(), ..client.stdio() };
        let (io, child) = client.open(&stdio, &reaper).await;
        // What a FIFO and a pipe hold and a little more.
        let child = start("yes | head -c 100000", child, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        assert!(!io.drained(PIPE_SILENCE * 2).await);
        let stdout = client.read("stdout");
        assert!(io.drained(LIMIT).await);
        assert_eq!(within(stdout).await.unwrap().len(), 100_000);
    });
}

#[test]
fn pipes_belong_to_the_containers_user() {
    run(async |reaper| {
        if !crate::testing::is_root("pipes_belong_to_the_containers_user") {
            return;
        }
        let client = Client::new();
        let owner = Owner { uid: 1234, gid: 5678, ..client.owner() };
        let (_io, child) = ProcessIo::open(&client.stdio(), &owner, &reaper).await.unwrap();
        let ChildStdio::Fds { stdin, stdout, stderr } = child else { panic!("a terminal") };
        for fd in [stdin, stdout, stderr] {
            let metadata = File::from(fd.unwrap()).metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
        }
    });
}

#[test]
fn nothing_is_null_and_what_is_missing_is_said() {
    run(async |reaper| {
        let client = Client::new();
        let (io, child) = client.open(&Stdio::default(), &reaper).await;
        assert!(matches!(child, ChildStdio::Fds { stdin: None, stdout: None, stderr: None }));
        assert!(io.drained(LIMIT).await);
        assert_eq!(io.resize(80, 25).unwrap_err().kind(), ErrorKind::FailedPrecondition);

        let missing = Stdio { stdout: "/no/such/fifo".into(), ..Stdio::default() };
        let error = ProcessIo::open(&missing, &client.owner(), &reaper).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    });
}

#[test]
fn a_file_is_made_and_appended_to() {
    run(async |reaper| {
        let client = Client::new();
        let path = client.path("logs/new/log");
        let uri = format!("file://{}", path.display());
        let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() };
        for _ in 0..2 {
            let (io, child) = client.open(&stdio, &reaper).await;
            let child = start("echo out; echo err >&2", child, &reaper);
            assert_eq!(within(child.exit).await.status, 0);
            assert!(io.drained(LIMIT).await);
        }
        let mut lines: Vec<_> =
            fs::read_to_string(path).unwrap().lines().map(String::from).collect();
        lines.sort();
        assert_eq!(lines, ["err", "err", "out", "out"]);
    });
}

#[test]
fn a_full_disk_does_not_stop_the_process() {
    run(async |reaper| {
        let client = Client::new();
        let stdio = Stdio { stdout: "/dev/full".into(), ..Stdio::default() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let child = start("yes | head -n 100000", child, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        assert!(io.drained(LIMIT).await);
    });
}

/// Writes an executable script; its URI.
fn logger(client: &Client, script: &str) -> String {
    let path = client.path("logger");
    fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let log = client.path("log");
    format!("binary://{}?{}=x", path.display(), log.display())
}

#[test]
fn a_logger_gets_both_streams_and_its_environment() {
    run(async |reaper| {
        let client = Client::new();
        let script = "exec >$1; echo $CONTAINER_NAMESPACE $CONTAINER_ID; 
            exec 5>&-; cat <&3; cat <&4";
        let uri = logger(&client, script);
        let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() };
        let (io, child) = client.open(&stdio, &reaper).await;
        let child = start("echo out; echo err >&2", child, &reaper);
        assert_eq!(within(child.exit).await.status, 0);
        within(io.close()).await;
        let log = fs::read_to_string(client.path("log")).unwrap();
        assert_eq!(log, format!("{} {}\nout\nerr\n", client.namespace, client.id));
    });
}

#[test]
fn a_logger_that_fails_is_said_so() {
    run(async |reaper| {
        let client = Client::new();
        let uri = logger(&client, "exit 1").replace("binary:", "binary-v2:");
        for uri in [uri, "binary:///no/such/logger".into()] {
            let stdio = Stdio { stdout: uri, ..Stdio::default() };
            let error = ProcessIo::open(&stdio, &client.owner(), &reaper).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        }
    });
}
