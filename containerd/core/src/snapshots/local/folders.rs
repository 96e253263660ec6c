//! The folders of snapshots: made under a name of their own, and moved aside
//! before they are removed, so that none is ever seen half.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use shim_protocol::{Context, Result};

/// Of a folder that is being made. Not containerd's word, so that what it left
/// is not taken for ours.
const NEW: &str = ".new-";
/// Of a folder that is being removed.
const OLD: &str = ".rm-";
/// What containerd has for these.
const FOREIGN: [&str; 2] = ["new-", "rm-"];

/// What a name in the folder of snapshots stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A snapshot's folder.
    Snapshot(u64),
    /// One that is being made, or was when a daemon was killed.
    New(u64),
    /// One that is being removed, or was when a daemon was killed.
    Old,
    /// As [`Self::New`] and [`Self::Old`], of containerd itself.
    Foreign,
    /// Neither.
    Other,
}

/// Folders with numbers, in one folder.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    at: PathBuf,
}

impl Folders {
    /// Those in `at`, which is made if it is not there.
    pub(super) fn open(at: PathBuf, mode: u32) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(mode).create(&at).context("create", at.display())?;
        Ok(Self { at })
    }

    pub(super) fn path(&self, id: u64) -> PathBuf {
        self.at.join(id.to_string())
    }

    /// Where a folder is made.
    pub(super) fn new_path(&self, id: u64) -> PathBuf {
        self.at.join(format!("{NEW}{id}"))
    }

    /// Gives a folder that was made its name, for good.
    pub(super) fn place(&self, id: u64) -> Result<()> {
        let (new, path) = (self.new_path(id), self.path(id));
        sync(&new)?;
        // Never in place of another one, such as a daemon in Go may have made.
        rename_new(&new, &path).context("rename", new.display())?;
        sync(&self.at)
    }

    /// Moves a folder aside; none if it is not there.
    pub(super) fn move_away(&self, id: u64) -> Result<Option<PathBuf>> {
        let (path, old) = (self.path(id), self.at.join(format!("{OLD}{id}")));
        match fs::rename(&path, &old) {
            Ok(()) => Ok(Some(old)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).context("rename", path.display()),
        }
    }

    /// All names in the folder.
    pub(super) fn list(&self) -> Result<Vec<(PathBuf, Name)>> {
        let at = self.at.display();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.at).context("read", at)? {
            let entry = entry.context("read", self.at.display())?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let number = |text: &str| text.parse::<u64>().ok();
            let kind = if let Some(id) = number(&text) {
                Name::Snapshot(id)
            } else if let Some(id) = text.strip_prefix(NEW).and_then(number) {
                Name::New(id)
            } else if text.strip_prefix(OLD).and_then(number).is_some() {
                Name::Old
            } else if FOREIGN.iter().any(|prefix| text.starts_with(prefix)) {
                Name::Foreign
            } else {
                Name::Other
            };
            found.push((entry.path(), kind));
        }
        Ok(found)
    }

    /// Sees to it that changes of names survive a loss of power.
    pub(super) fn sync(&self) -> Result<()> {
        sync(&self.at)
    }
}

/// Makes one folder.
pub(super) fn make(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(path).context("create", path.display())
}

/// Removes a folder with all that is in it; it may be gone.
pub(super) fn delete(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", path.display()),
        _ => Ok(()),
    }
}

/// Moves a folder to a name that must be free.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some filesystems cannot: then a folder with something in it is not
        // replaced either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        other => Ok(other?),
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).context("sync", path.display())
}
