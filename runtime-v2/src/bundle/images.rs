//! Images of checkpoints in a task's work folder: what it is restored from, and
//! what is on its way to somewhere else. All of this blocks.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use shim_protocol::{Context, Result, images};
use tempfile::TempDir;

use super::{Bundle, remove};

/// In the work folder: the images that the task is restored from.
const RESTORE: &str = "restore";
/// In the work folder: begin of the names of folders that checkpoints are
/// written to before they are put somewhere else.
const CHECKPOINT: &str = "checkpoint-";

impl Bundle {
    /// Makes the folder for the images that the task is restored from. It goes
    /// with the bundle at the latest.
    pub(crate) fn make_restore_folder(&self) -> Result<PathBuf> {
        let folder = self.work.join(RESTORE);
        DirBuilder::new().mode(0o700).create(&folder).context("make", folder.display())?;
        Ok(folder)
    }

    /// Removes that folder; a missing one is success.
    pub(crate) fn remove_restore_folder(&self) -> Result<()> {
        remove::tree(&self.work.join(RESTORE))
    }

    /// Makes a folder for a checkpoint. It goes with the bundle at the latest.
    pub(crate) fn make_checkpoint_folder(&self) -> Result<PathBuf> {
        // What is in a process's memory is nobody else's concern.
        let made = tempfile::Builder::new()
            .prefix(CHECKPOINT)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.work);
        // A shim writes to it, and goes on when nobody here knows of it any more.
        made.map(TempDir::keep).context("make a folder in", self.work.display())
    }

    /// Removes such a folder.
    pub(crate) fn remove_checkpoint_folder(path: &Path) -> Result<()> {
        remove::tree(path)
    }

    /// Looks for what an earlier daemon has left of restores and, if asked to, of
    /// checkpoints. Not to be called once this one can make new ones.
    pub(crate) fn left_images(&self, checkpoints_too: bool) -> Result<LeftImages> {
        let mut left = LeftImages::default();
        let entries = match fs::read_dir(&self.work) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(left),
            entries => entries.context("list", self.work.display())?,
        };
        for entry in entries {
            let entry = entry.context("list", self.work.display())?;
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            let whole = name.as_bytes().strip_prefix(b".");
            let is_restore = whole.unwrap_or(name.as_bytes()) == RESTORE.as_bytes();
            let is_checkpoint = whole.unwrap_or(name.as_bytes()).starts_with(CHECKPOINT.as_bytes());
            if whole.is_some() && (is_restore || is_checkpoint) {
                left.half_removed.push(entry.path());
            } else if is_restore {
                left.restored.push(entry.path());
            } else if is_checkpoint && checkpoints_too {
                left.checkpoints.push(entry.path());
            }
        }
        Ok(left)
    }
}

/// Folders that an earlier daemon has left in the work folder of a task that runs.
#[derive(Debug, Default)]
pub(crate) struct LeftImages {
    /// Their removal was cut short.
    half_removed: Vec<PathBuf>,
    /// What the task was restored from.
    restored: Vec<PathBuf>,
    /// Nobody will put them anywhere, but a shim may still write to them.
    checkpoints: Vec<PathBuf>,
}

impl LeftImages {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { half_removed, restored, checkpoints } = self;
        half_removed.is_empty() && restored.is_empty() && checkpoints.is_empty()
    }

    /// Removes what nobody can need, and answers the checkpoints that no shim
    /// writes to any more: ours holds a lock as long as it does.
    pub(crate) fn remove_unneeded(self) -> Result<Written> {
        for folder in &self.half_removed {
            remove::hidden(folder)?;
        }
        for folder in &self.restored {
            remove::tree(folder)?;
        }
        let mut written = Written::default();
        for path in self.checkpoints {
            match images::lock(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                locked => {
                    let locked = locked.context("lock", path.display())?;
                    written.0.extend(locked.map(|lock| (path, lock)));
                }
            }
        }
        Ok(written)
    }
}

/// Checkpoints that no shim writes to any more, with the locks on them.
#[derive(Debug, Default)]
pub(crate) struct Written(Vec<(PathBuf, File)>);

impl Written {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes them.
    pub(crate) fn remove(self) -> Result<()> {
        self.0.iter().try_for_each(|(path, _locked)| remove::tree(path))
    }
}
