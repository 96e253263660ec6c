//! Freezing and thawing (cgroup-v1/freezer-subsystem.rst; cgroup-v2.rst,
//! "cgroup.freeze").

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{Groups, PAUSE, missing, tree};
use crate::kernel;

/// How long freezing may take. A process in an uninterruptible wait holds it up.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Groups {
    /// Freezes all processes.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it does not work out; then they are thawed.
    pub(crate) fn freeze(&self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        self.set(true)?;
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                self.thaw()?;
                let what = "the kernel does not freeze the container";
                return Err(Error::new(ErrorKind::DeadlineExceeded, what));
            }
            // In v1 a process that was made meanwhile is missed until asked again.
            self.set(true)?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Thaws all processes. Where nothing can freeze them that is fine, and so it
    /// is where there are none: systemd removes groups as soon as they are empty.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn thaw(&self) -> Result<()> {
        let Ok(freezer) = self.freezer() else { return Ok(()) };
        match self.set(false) {
            Err(_) if !freezer.exists() => Ok(()),
            thawed => thawed,
        }
    }

    /// True when all processes are frozen.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn is_frozen(&self) -> Result<bool> {
        let (path, frozen) = match self.freezer()? {
            Freezer::V1(path) => (path, "FROZEN"),
            Freezer::V2(folder) => (folder.join("cgroup.events"), "frozen 1"),
        };
        let text = kernel::read(&path).context("read", path.display())?;
        Ok(text.lines().any(|line| line == frozen))
    }

    fn set(&self, frozen: bool) -> Result<()> {
        match self.freezer()? {
            Freezer::V1(path) => tree::write(&path, if frozen { "FROZEN" } else { "THAWED" }),
            Freezer::V2(folder) => {
                tree::write(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
        }
    }

    fn freezer(&self) -> Result<Freezer<'_>> {
        match (self.v1("freezer"), &self.v2) {
            (Some(folder), _) => Ok(Freezer::V1(folder.join("freezer.state"))),
            (None, Some(unified)) => Ok(Freezer::V2(&unified.group)),
            (None, None) => Err(missing("freezer")),
        }
    }
}

enum Freezer<'a> {
    V1(PathBuf),
    V2(&'a Path),
}

impl Freezer<'_> {
    fn exists(&self) -> bool {
        match self {
            Self::V1(file) => file.exists(),
            Self::V2(folder) => folder.exists(),
        }
    }
}
