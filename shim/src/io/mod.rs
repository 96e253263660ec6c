//! The streams of one process: who holds which end, and until when.

use std::{path::Path, time::Duration};

use shim_protocol::{Error, Id, Result};

use crate::{reaper::Reaper, runtime::ChildStdio};

/// Where the streams of a process go, in the client's words: the path of a
/// FIFO or file, a `file://` or `binary://` URI, or nothing for `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output, or all output of a terminal.
    pub stdout: String,
    /// Standard error; a terminal has none.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// Whose streams are opened.
#[derive(Debug)]
pub struct Owner<'a> {
    /// The containerd namespace, told to a logging program.
    pub namespace: &'a Id,
    /// The container's or exec's name, told to a logging program.
    pub id: &'a Id,
    /// A folder only root can enter, for the console's socket.
    pub dir: &'a Path,
    /// The user who owns the pipes, so that the process can reopen them.
    pub uid: u32,
    /// The group that owns the pipes.
    pub gid: u32,
}

/// The shim's side of the streams of one process. Dropping it closes
/// everything at once; [`ProcessIo::close`] is the gentle way.
pub struct ProcessIo {}

impl ProcessIo {
    /// Opens the client's side, makes the process's side, and starts to copy.
    ///
    /// # Errors
    /// `InvalidArgument` for a URI that is not understood, `NotFound` for a
    /// FIFO that is not there.
    pub async fn open(
        stdio: &Stdio,
        owner: &Owner<'_>,
        reaper: &Reaper,
    ) -> Result<(Self, ChildStdio)> {
        let _ = (stdio, owner, reaper);
        Err(Error::unimplemented("streams"))
    }

    /// Takes the terminal that the runtime has made. To be called once the
    /// runtime has created the process; does nothing without a terminal.
    ///
    /// # Errors
    /// `Internal` when the runtime has sent no terminal.
    pub async fn attach_console(&self) -> Result<()> {
        Ok(())
    }

    /// The process sees the end of its input as soon as no client holds the
    /// FIFO open for writing. Doing it twice is fine.
    pub fn close_stdin(&self) {}

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let _ = (columns, rows);
        Err(Error::precondition("the process has no terminal"))
    }

    /// To be called when the process has ended: waits until all its output is
    /// with the client or logger. False when that took longer than `limit`,
    /// because another process still holds the pipe or the client does not read.
    pub async fn drained(&self, limit: Duration) -> bool {
        let _ = limit;
        true
    }

    /// Ends copying and loggers, and waits for them.
    pub async fn close(self) {}
}
