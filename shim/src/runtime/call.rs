//! One execution of a runtime's command line.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::sys::signal::Signal;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{io::AsyncReadExt, net::unix::pipe};
use tokio_util::sync::CancellationToken;

use super::{ChildStdio, log};
use crate::{
    kernel,
    reaper::{KillOnDrop, Reaper},
    sys::{command, process},
};

const SIGKILL: u32 = Signal::SIGKILL as u32;
/// How long a call that was given up may take to undo what it has done.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(5);
/// How long it is waited for what a call may still start.
const KILL_PAUSE: Duration = Duration::from_millis(20);

/// The largest answer that is read, in bytes: a process list of a container
/// with 100,000 processes fits.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// Makes the names of temporary files of this process unique.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A file that lives as long as one call.
pub(super) struct TempFile {
    path: PathBuf,
    file: File,
}

impl TempFile {
    /// An empty file that only root can read: it may hold environment variables.
    pub(super) fn new(dir: &Path, name: &str) -> Result<Self> {
        loop {
            // The prefix keeps it apart from what else lives in a bundle.
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".{name}-{}-{number}", std::process::id()));
            let mut options = OpenOptions::new();
            match options.read(true).append(true).create_new(true).mode(0o600).open(&path) {
                // Left by one that was killed and had our pid.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                file => return Ok(Self { file: file.context("create", path.display())?, path }),
            }
        }
    }

    /// A file with `content`.
    pub(super) fn with(dir: &Path, name: &str, content: &[u8]) -> Result<Self> {
        let mut temp = Self::new(dir, name)?;
        temp.file.write_all(content).context("write", temp.path.display())?;
        Ok(temp)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // A file left behind goes with the bundle.
        let _ = fs::remove_file(&self.path);
    }
}

/// A command line about to be executed.
pub(super) struct Call {
    command: Command,
    log: TempFile,
    verb: &'static str,
    wants_output: bool,
    give_up: CancellationToken,
}

impl Call {
    /// `binary --root R --log L --log-format json verb`.
    pub(super) fn new(binary: &Path, root: &Path, work: &Path, verb: &'static str) -> Result<Self> {
        let log = TempFile::new(work, "runtime-log")?;
        let mut command = Command::new(binary);
        command
            .arg("--root")
            .arg(root)
            .arg("--log")
            .arg(log.path())
            .args(["--log-format", "json"])
            // Our own may be the bundle of another container of the group, and
            // be gone by now.
            .current_dir(work)
            // The service manager hears from the daemon only.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.file.try_clone().context("clone", "log")?);
        // A runtime must not go on making a container that nobody will own.
        command::die_with_parent(&mut command);
        Ok(Self { command, log, verb, wants_output: false, give_up: CancellationToken::new() })
    }

    /// Adds an argument.
    pub(super) fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Adds an option with its value.
    pub(super) fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(name).arg(value);
        self
    }

    /// Adds `name` if `condition` holds.
    pub(super) fn flag(&mut self, name: &str, condition: bool) -> &mut Self {
        if condition {
            self.command.arg(name);
        }
        self
    }

    /// What it prints is the answer.
    pub(super) fn capture(&mut self) -> &mut Self {
        self.wants_output = true;
        self.command.stdout(Stdio::piped());
        self
    }

    /// Once this is cancelled, all that it has started is killed, so that it fails,
    /// and undoes what it has done.
    pub(super) fn give_up(&mut self, token: &CancellationToken) -> &mut Self {
        self.give_up = token.clone();
        self
    }

    /// The container's process inherits these.
    pub(super) fn stdio(&mut self, stdio: ChildStdio) -> &mut Self {
        match stdio {
            ChildStdio::Fds { stdin, stdout, stderr } => {
                let or_null = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
                self.command.stdin(or_null(stdin)).stdout(or_null(stdout)).stderr(or_null(stderr));
            }
            ChildStdio::Console(socket) => {
                self.option("--console-socket", socket);
            }
        }
        self
    }

    /// Executes it and waits for its end; what it printed, if that is wanted.
    /// Who stops waiting ends it.
    ///
    /// # Errors
    /// `Unknown` with the runtime's own message when it fails.
    pub(super) async fn run(mut self, reaper: &Reaper) -> Result<Vec<u8>> {
        let child = reaper.spawn(&mut self.command)?;
        // Holds the container's streams, which must have no writer but it.
        drop(self.command);
        let mut process = KillOnDrop::new(child.pid, child.exit);
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout {
            let reader = pipe::Receiver::from_owned_fd(stdout).context("read", "runtime output")?;
            reader
                .take(MAX_OUTPUT_BYTES)
                .read_to_end(&mut output)
                .await
                .context("read", "runtime output")?;
        }
        let given_up = async {
            self.give_up.cancelled().await;
            tokio::time::timeout(GIVE_UP_LIMIT, end_descendants(child.pid)).await
        };
        let status = tokio::select! {
            biased;
            exit = process.ended() => exit.status,
            _ = given_up => {
                let text = format!("OCI runtime {}: it was given up, and killed", self.verb);
                return Err(Error::new(ErrorKind::DeadlineExceeded, text));
            }
        };
        if status == 0 {
            return Ok(output);
        }
        let reason = log::reason(&mut self.log.file).context("read", self.log.path.display())?;
        let reason = reason.unwrap_or_else(|| format!("exit status {status}, no message"));
        Err(Error::new(ErrorKind::Unknown, format!("OCI runtime {}: {reason}", self.verb)))
    }
}

/// Kills what a process has started, and goes on with that.
async fn end_descendants(pid: u32) {
    loop {
        // The youngest first: whoever started them may still tell what became of them.
        for pid in descendants(pid).into_iter().rev() {
            // It may have ended just now.
            let _ = process::kill(pid, SIGKILL);
        }
        tokio::time::sleep(KILL_PAUSE).await;
    }
}

/// All that descend from a process, parents before their children.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children =
            threads.filter_map(|thread| kernel::read(thread.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|pids| pids.split_whitespace().flat_map(str::parse).collect::<Vec<_>>())
            .collect();
        found.extend(children);
        next += 1;
    }
    found.split_off(1)
}

/// Reads the pid a runtime has written.
pub(super) fn read_pid(path: &Path) -> Result<u32> {
    let text = fs::read_to_string(path).context("read", path.display())?;
    text.trim()
        .parse()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        .context("read pid from", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sys::wait, testing};

    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtime.sh");

    #[test]
    fn what_a_call_has_started_is_killed_when_it_is_given_up() {
        testing::run(async |reaper| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("wait-restore"), "").unwrap();
            let give_up = CancellationToken::new();
            let mut call =
                Call::new(SCRIPT.as_ref(), folder.path(), folder.path(), "restore").unwrap();
            call.arg("restore").give_up(&give_up);
            let run = async {
                let error = call.run(&reaper).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
            };
            let give_up = async {
                while !folder.path().join("begun").exists() {
                    tokio::task::yield_now().await;
                }
                give_up.cancel();
            };
            tokio::join!(run, give_up);
            assert!(folder.path().join("undone").exists());

            // One that has nobody but itself is killed.
            fs::write(folder.path().join("hang-restore"), "").unwrap();
            let give_up = CancellationToken::new();
            let mut call =
                Call::new(SCRIPT.as_ref(), folder.path(), folder.path(), "restore").unwrap();
            call.arg("restore").give_up(&give_up);
            let run = tokio::spawn({
                let reaper = std::sync::Arc::clone(&reaper);
                async move { call.run(&reaper).await }
            });
            let pid = loop {
                match read_pid(&folder.path().join("hanging")) {
                    Ok(pid) => break pid,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            give_up.cancel();
            tokio::time::pause();
            let error = run.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
            while wait::is_child(pid) {
                tokio::task::yield_now().await;
            }
        });
    }
}
