//! Standard input and output of a process: where they lead, and the FIFOs
//! between a process and its user.
//!
//! The user makes the FIFOs and names them to the daemon; the shim opens the
//! other ends, and keeps them open when the user goes away. Both may come and
//! go.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::stat::Mode,
    unistd::{mkdtemp, mkfifo},
};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use crate::{Context, Result};

/// Where Go clients keep FIFOs.
pub const FIFO_DIR: &str = "/run/containerd/fifo";

/// Where the standard streams of a process lead: paths of FIFOs, or URIs
/// (`file://`, `binary://`). Empty is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output, and all output of a terminal.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Does the process get a terminal?
    pub terminal: bool,
}

impl Stdio {
    /// No input, and output goes nowhere.
    pub fn null() -> Self {
        Self::default()
    }

    /// No input; all output goes to a logging URI, such as
    /// `file:///var/log/web` or `binary:///usr/bin/logger?key=value`.
    pub fn log_uri(uri: impl Into<String>) -> Self {
        let uri = uri.into();
        Self { stdout: uri.clone(), stderr: uri, ..Self::default() }
    }
}

/// FIFOs of one process in a private folder. They are removed on drop, unless
/// [kept](Fifos::keep).
#[derive(Debug)]
pub struct Fifos {
    stdio: Stdio,
    /// Folders that are removed with the FIFOs, if they are empty then.
    folders: Vec<PathBuf>,
    kept: bool,
}

impl Fifos {
    /// Makes a folder under `base` that only its owner can enter, and in it
    /// FIFOs for the process `id`: three, or without a standard error for one
    /// with a terminal.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(base: impl AsRef<Path>, id: &str, terminal: bool) -> Result<Self> {
        let base = base.as_ref();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(base)
            .context("create folder", base.display())?;
        let folder = mkdtemp(&base.join("XXXXXX")).context("create folder in", base.display())?;

        let path = |stream: &str| folder.join(format!("{id}-{stream}")).display().to_string();
        let stderr = if terminal { String::new() } else { path("stderr") };
        let stdio = Stdio { stdin: path("stdin"), stdout: path("stdout"), stderr, terminal };

        // From here on, a failure removes what was made.
        let fifos = Self { stdio, folders: vec![folder], kept: false };
        for path in fifos.paths() {
            mkfifo(path, Mode::S_IRWXU).context("create fifo", path.display())?;
        }
        Ok(fifos)
    }

    /// The FIFOs that a process has already, to attach to it or to remove them
    /// with it. Streams that are no FIFOs are left alone.
    pub fn existing(stdio: &Stdio) -> Self {
        let fifo =
            |path: &str| if is_fifo(Path::new(path)) { path.to_owned() } else { String::new() };
        let stdio = Stdio {
            stdin: fifo(&stdio.stdin),
            stdout: fifo(&stdio.stdout),
            stderr: fifo(&stdio.stderr),
            terminal: stdio.terminal,
        };
        let mut fifos = Self { stdio, folders: Vec::new(), kept: false };
        fifos.folders = fifos.paths().filter_map(Path::parent).map(Path::to_owned).collect();
        fifos.folders.dedup();
        fifos
    }

    /// The paths, for the daemon.
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    /// Leaves the FIFOs behind: the process lives longer than its user.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Opens this side. It is done before the other side is there: Go's shim
    /// makes no process whose output nobody reads.
    ///
    /// # Errors
    /// Those of the system, and outside of a tokio runtime.
    pub fn open(&self) -> Result<Streams> {
        let output = |path: &str| {
            let open = |path| OpenOptions::new().open_receiver(path).context("open fifo", path);
            (!path.is_empty()).then_some(path).map(open).transpose()
        };
        let stdin = &self.stdio.stdin;
        Ok(Streams {
            stdin: (!stdin.is_empty()).then(|| Stdin { path: stdin.clone() }),
            stdout: output(&self.stdio.stdout)?,
            stderr: output(&self.stdio.stderr)?,
        })
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.stdio.stdin, &self.stdio.stdout, &self.stdio.stderr]
            .into_iter()
            .filter(|path| !path.is_empty())
            .map(Path::new)
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Nothing to be done about a failure: what is left is in nobody's way.
        for path in self.paths() {
            let _ = fs::remove_file(path);
        }
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// This side's ends of the FIFOs.
///
/// An output stream waits until the shim has opened its end, and ends when the
/// shim closes it, which it does when the process and all that share its
/// output are gone.
#[derive(Debug, Default)]
pub struct Streams {
    /// Goes to the process.
    pub stdin: Option<Stdin>,
    /// Comes from the process.
    pub stdout: Option<Receiver>,
    /// Comes from the process. None with a terminal.
    pub stderr: Option<Receiver>,
}

/// The way into a process that may not be there yet.
#[derive(Debug)]
pub struct Stdin {
    path: String,
}

impl Stdin {
    /// Opens it, as soon as the shim has opened its end: what is written into a
    /// FIFO without a reader is lost when the writer closes it.
    ///
    /// To end the input, drop what this returns and call
    /// [`Process::close_stdin`](crate::Process::close_stdin): the shim holds
    /// the FIFO open as well.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn open(self) -> Result<Sender> {
        /// Nothing tells when a FIFO gets its first reader.
        const INTERVAL: Duration = Duration::from_millis(5);
        loop {
            match OpenOptions::new().open_sender(&self.path) {
                // fifo(7): there is no reader yet.
                Err(e) if e.raw_os_error() == Some(nix::libc::ENXIO) => {
                    tokio::time::sleep(INTERVAL).await;
                }
                result => return result.context("open fifo", &self.path),
            }
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_private_folder_that_goes_with_the_fifos() {
        let base = tempfile::tempdir().unwrap();
        let fifos = Fifos::create(base.path(), "web", false).unwrap();
        let paths: Vec<PathBuf> = fifos.paths().map(Path::to_owned).collect();
        assert_eq!(paths.len(), 3);
        assert!(paths.iter().all(|path| is_fifo(path)));
        assert!(paths[0].ends_with("web-stdin"));
        let mode = fs::metadata(paths[0].parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(fifos);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn kept_fifos_can_be_adopted() {
        let base = tempfile::tempdir().unwrap();
        let fifos = Fifos::create(base.path(), "web", true).unwrap();
        let stdio = fifos.stdio().clone();
        assert_eq!(stdio.stderr, "");
        fifos.keep();
        let adopted = Fifos::existing(&stdio);
        assert_eq!(adopted.stdio(), &stdio);
        drop(adopted);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_fifo_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("log");
        fs::write(&log, "").unwrap();
        let stdio = Stdio {
            stdin: "/nowhere/stdin".into(),
            stdout: log.display().to_string(),
            ..Stdio::log_uri("file:///var/log/web")
        };
        drop(Fifos::existing(&stdio));
        assert!(log.exists());
    }

    /// The other side of a FIFO comes later and closes; only that is the end.
    #[tokio::test]
    async fn output_ends_when_the_writer_is_gone() {
        let base = tempfile::tempdir().unwrap();
        let fifos = Fifos::create(base.path(), "web", false).unwrap();
        let mut stdout = fifos.open().unwrap().stdout.unwrap();
        let reader = tokio::spawn(async move {
            let mut text = String::new();
            stdout.read_to_string(&mut text).await.unwrap();
            text
        });
        tokio::task::yield_now().await;
        let mut writer = OpenOptions::new().open_sender(&fifos.stdio().stdout).unwrap();
        writer.write_all(b"hello").await.unwrap();
        drop(writer);
        assert_eq!(reader.await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn input_waits_for_its_reader() {
        let base = tempfile::tempdir().unwrap();
        let fifos = Fifos::create(base.path(), "web", false).unwrap();
        let stdin = fifos.open().unwrap().stdin.unwrap();
        let writer = tokio::spawn(async move {
            let mut stdin = stdin.open().await.unwrap();
            stdin.write_all(b"hello").await.unwrap();
        });
        tokio::task::yield_now().await;
        assert!(!writer.is_finished());
        let mut reader = OpenOptions::new().open_receiver(&fifos.stdio().stdin).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }
}
