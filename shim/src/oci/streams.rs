//! What a container's process reads from and writes to.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use rustix::{
    fs::{Uid, fchown, fstat},
    io::Errno,
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use shim_protocol::{Context, Error, Result};

use super::rootfs::devices;

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
    /// Makes them the standard streams of this process.
    ///
    /// # Errors
    /// Those of dup2(2).
    pub(super) fn connect(&self) -> io::Result<()> {
        let [stdin, stdout, stderr] = &self.fds;
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        Ok(dup2_stderr(stderr)?)
    }

    /// Opens `/dev/null` again for those of this process's streams that are it: by
    /// the host's, one would be in the host's mounts.
    ///
    /// # Errors
    /// Those of open(2).
    pub(super) fn reopen_null(&self) -> io::Result<()> {
        let is_null = |fd: BorrowedFd<'_>| devices::is_null(fd);
        let nulls = [
            is_null(io::stdin().as_fd())?,
            is_null(io::stdout().as_fd())?,
            is_null(io::stderr().as_fd())?,
        ];
        if nulls == [false; 3] {
            return Ok(());
        }
        let null = devices::null()?;
        let [input, output, error] = nulls;
        if input {
            dup2_stdin(&null)?;
        }
        if output {
            dup2_stdout(&null)?;
        }
        if error {
            dup2_stderr(&null)?;
        }
        Ok(())
    }

    /// Gives this process's streams to a user, who may want to open them by their
    /// names (`/dev/stdout`). Those that belong to everybody stay.
    ///
    /// # Errors
    /// Those of fchown(2), but for what the kernel never gives away.
    pub(super) fn give_to(&self, user: u32) -> io::Result<()> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
            if fstat(stream)?.st_uid == user || devices::is_null(stream)? {
                continue;
            }
            match fchown(stream, Some(Uid::from_raw(user)), None) {
                // A file of a user namespace above, or on a read-only filesystem.
                Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
                given => given?,
            }
        }
        Ok(())
    }

    /// Where the terminal is to be sent.
    pub(super) fn console(&self) -> Option<&UnixStream> {
        self.console.as_ref()
    }
}
