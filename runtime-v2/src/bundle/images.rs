//! Images of checkpoints in a task's work folder: what it is restored from, and
//! what is on its way to somewhere else. All of this blocks.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt},
    },
    path::PathBuf,
};

use shim_protocol::{Context, Result};
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

    /// Makes a folder for a checkpoint. It is removed when the answer is dropped,
    /// at the next start of the daemon, or with the bundle.
    pub(crate) fn make_checkpoint_folder(&self) -> Result<TempDir> {
        // What is in a process's memory is nobody else's concern.
        let made = tempfile::Builder::new()
            .prefix(CHECKPOINT)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.work);
        made.context("make a folder in", self.work.display())
    }

    /// Removes what an earlier daemon has left of checkpoints, but not what a
    /// shim still writes to: it holds a lock then.
    pub(crate) fn remove_checkpoint_folders(&self) -> Result<()> {
        let entries = match fs::read_dir(&self.work) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.context("list", self.work.display())?,
        };
        for entry in entries {
            let entry = entry.context("list", self.work.display())?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let is_ours = entry.file_name().as_bytes().starts_with(CHECKPOINT.as_bytes());
            if !is_folder || !is_ours {
                continue;
            }
            let folder = File::open(entry.path()).context("open", entry.path().display())?;
            match folder.try_lock() {
                Ok(()) => remove::tree(&entry.path())?,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).context("lock", entry.path().display());
                }
            }
        }
        Ok(())
    }
}
