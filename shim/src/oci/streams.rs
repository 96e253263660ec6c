//! What a container's process reads from and writes to.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use nix::{
    sys::stat::{SFlag, fstat, makedev},
    unistd::{dup2_stderr, dup2_stdout},
};
use shim_protocol::{Context, Error, Result};

/// The streams of a process that is to be made.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Standard input, output and error; an absent one is `/dev/null`.
    pub(crate) fds: [Option<OwnedFd>; 3],
    /// Where the controlling side of its terminal is to be sent.
    pub(crate) console: Option<PathBuf>,
}

/// Streams that are all there.
#[derive(Debug)]
pub(super) struct Open {
    fds: [OwnedFd; 3],
    console: Option<UnixStream>,
}

impl Streams {
    /// Opens what is missing. `terminal` is what the process asks for.
    ///
    /// # Errors
    /// `InvalidArgument` when it asks for a terminal and nobody takes it, or the
    /// other way round.
    pub(super) fn open(self, terminal: bool) -> Result<Open> {
        let console = match (self.console, terminal) {
            (Some(path), true) => {
                Some(UnixStream::connect(&path).context("connect to", path.display())?)
            }
            (None, false) => None,
            (None, true) => {
                return Err(Error::invalid("process.terminal without a console socket"));
            }
            (Some(_), false) => {
                return Err(Error::invalid("a console socket without process.terminal"));
            }
        };
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.context("open", "/dev/null")?;
        let [stdin, stdout, stderr] = self.fds;
        let or_null = |fd: Option<OwnedFd>| match fd {
            Some(fd) => Ok(fd),
            None => null.try_clone().map(OwnedFd::from).context("clone", "/dev/null"),
        };
        Ok(Open { fds: [or_null(stdin)?, or_null(stdout)?, or_null(stderr)?], console })
    }
}

impl Open {
    /// By number, for the new process, which has copies of them all.
    pub(super) fn numbers(&self) -> [RawFd; 3] {
        [0, 1, 2].map(|index: usize| self.fds[index].as_raw_fd())
    }

    pub(super) fn console(&self) -> Option<RawFd> {
        self.console.as_ref().map(AsRawFd::as_raw_fd)
    }
}

/// Opens `/dev/null` again for those of this process's streams that are it.
/// libcontainer replaces them by the container's own, but only for reading.
///
/// # Errors
/// Those of open(2).
pub(super) fn reopen_null() -> io::Result<()> {
    let is_null = |fd: BorrowedFd<'_>| {
        let found = fstat(fd)?;
        let character = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
        nix::Result::Ok(character && found.st_rdev == makedev(1, 3))
    };
    let (output, error) = (is_null(io::stdout().as_fd())?, is_null(io::stderr().as_fd())?);
    if !output && !error {
        return Ok(());
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // An image may have something else there.
    if !is_null(null.as_fd())? {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/null is something else"));
    }
    if output {
        dup2_stdout(&null)?;
    }
    if error {
        dup2_stderr(&null)?;
    }
    Ok(())
}
