//! Shim binaries, and where they are executed from.
//!
//! A process on its way into a container still is the shim's program, and must
//! not be able to write to its file (CVE-2019-5736). Our own shim sees to that
//! by itself, by executing itself once more from where nobody can write. Where
//! the daemon executes it from such a place in the first place, it need not.
//! That place is made once for all shims, and anew when the file has changed.
//! Shims of others are executed by their path.

use std::{
    collections::HashMap,
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::process::Command;

/// How many binaries are remembered. Clients name them, so there is a limit.
const MAX_KNOWN: usize = 16;

/// A shim binary, ready to be executed.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    sealed: Option<Arc<OwnedFd>>,
}

impl Program {
    /// The file at `path`, by that path.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), sealed: None }
    }

    /// Is it known to be our own shim? No other is executed by a descriptor.
    pub(crate) fn is_ours(&self) -> bool {
        self.sealed.is_some()
    }

    /// A command that executes it. Its arguments and `/proc` call it by its
    /// path, wherever it is executed from. To be spawned while `self` lives.
    pub(crate) fn command(&self) -> Command {
        match &self.sealed {
            Some(file) => {
                let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
                command.arg0(&self.path);
                command
            }
            None => Command::new(&self.path),
        }
    }
}

/// What is known of shim binaries.
#[derive(Debug, Default)]
pub(crate) struct Programs(Mutex<HashMap<PathBuf, Known>>);

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// Where to execute it; `None` while that is not known, and for a file that
    /// can only be executed by its path.
    sealed: Option<Arc<OwnedFd>>,
}

/// What changes when another file is installed in the place of one, or one is
/// written to: device, inode, size in bytes, and time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    file: FileId,
    size: u64,
    changed: (i64, i64),
}

/// Device and inode: the same by whatever path, or mount, a file is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    /// That of the file that `path` leads to; `None` when there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self::from(&found))
    }
}

impl From<&fs::Metadata> for FileId {
    fn from(found: &fs::Metadata) -> Self {
        Self(found.dev(), found.ino())
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(found: &fs::Metadata) -> Self {
        let changed = (found.mtime(), found.mtime_nsec());
        Self { file: found.into(), size: found.len(), changed }
    }
}

/// A binary of which it is to be found out whether it can be executed by a
/// descriptor.
#[derive(Debug)]
pub(crate) struct Candidate {
    identity: Identity,
    /// Like that.
    pub(crate) program: Program,
}

impl Programs {
    /// How to execute the file at `path` now; and, if it was not seen before, a
    /// candidate for a better way from the next time on.
    pub(crate) fn get(&self, path: &Path) -> (Program, Option<Candidate>) {
        let by_path = Program::at(path);
        // Whoever executes it says what is wrong with it.
        let Ok(found) = fs::metadata(path) else { return (by_path, None) };
        let identity = Identity::from(&found);
        let mut known = self.known();
        if let Some(known) = known.get(path).filter(|known| known.identity == identity) {
            return (Program { sealed: known.sealed.clone(), ..by_path }, None);
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(path.to_owned(), Known { identity, sealed: None });
        drop(known);
        let candidate = seal(path, identity).unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), error = %error.report(), "executed by its path");
            self.forget_after(path, &error);
            None
        });
        (by_path, candidate)
    }

    /// Has the next start find out about the file at `path` once more, if what went
    /// wrong says something of this moment and not of the file.
    pub(crate) fn forget_after(&self, path: &Path, error: &Error) {
        if matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::ResourceExhausted) {
            self.known().remove(path);
        }
    }

    /// From now on a candidate is executed by its descriptor.
    pub(crate) fn prefer(&self, candidate: Candidate) {
        let Candidate { identity, program } = candidate;
        if let Some(known) = self.known().get_mut(&program.path)
            && known.identity == identity
        {
            known.sealed = program.sealed;
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Known>> {
        // No change of it can panic halfway through.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` when the file has just changed.
fn seal(path: &Path, identity: Identity) -> Result<Option<Candidate>> {
    let sealed = containerd_mounts::sealed(path).context("seal", path.display())?;
    let found = fs::metadata(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    let found = found.context("examine", path.display())?;
    let program = Program { path: path.to_owned(), sealed: Some(Arc::new(sealed)) };
    Ok((Identity::from(&found) == identity).then_some(Candidate { identity, program }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a program that tells its name.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("named");
        install(&path);
        (folder, path)
    }

    /// Puts a program there, in place of another. One that is written by a
    /// process of its own: a child that another test forks meanwhile would hold
    /// it open for writing.
    fn install(path: &Path) {
        let done = std::process::Command::new("install").arg("/bin/cat").arg(path).status();
        assert!(done.unwrap().success());
    }

    fn is_sealed(program: &Program) -> bool {
        program.sealed.is_some()
    }

    #[tokio::test]
    async fn a_candidate_is_preferred_until_its_file_changes() {
        let (_folder, path) = folder();
        let programs = Programs::default();
        let (program, candidate) = programs.get(&path);
        assert!(!is_sealed(&program));
        let Some(candidate) = candidate else { return println!("skipped: cannot mount") };
        // It is asked about once.
        let (program, again) = programs.get(&path);
        assert!(!is_sealed(&program) && again.is_none());
        programs.prefer(candidate);
        let (program, again) = programs.get(&path);
        assert!(is_sealed(&program) && again.is_none());
        let output = program.command().arg("/proc/self/cmdline").output().await.unwrap();
        assert!(output.stdout.starts_with(path.as_os_str().as_encoded_bytes()));

        fs::remove_file(&path).unwrap();
        install(&path);
        let (program, candidate) = programs.get(&path);
        assert!(!is_sealed(&program));
        // What was learned of the file before counts no more.
        let stale = candidate.unwrap();
        fs::remove_file(&path).unwrap();
        install(&path);
        let (_, current) = programs.get(&path);
        programs.prefer(stale);
        assert!(!is_sealed(&programs.get(&path).0));
        programs.prefer(current.unwrap());
        assert!(is_sealed(&programs.get(&path).0));
    }

    #[test]
    fn what_is_no_file_is_executed_by_its_path_and_remembered_within_bounds() {
        let (folder, path) = folder();
        let programs = Programs::default();
        let (program, candidate) = programs.get(&folder.path().join("gone"));
        assert!(!is_sealed(&program) && candidate.is_none());
        for number in 0..2 * MAX_KNOWN {
            let other = folder.path().join(format!("{number}"));
            fs::hard_link(&path, &other).unwrap();
            programs.get(&other);
        }
        assert!(programs.known().len() <= MAX_KNOWN);
    }
}
