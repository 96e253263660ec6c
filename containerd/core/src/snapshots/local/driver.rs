//! What our snapshotters differ in.

use std::path::{Path, PathBuf};

use shim_protocol::{Error, Result};

use super::folders::{self, Folders};
use crate::{
    Mount,
    snapshots::{Kind, Labels, Usage},
};

/// A snapshot on disk, with all that it builds upon.
#[derive(Clone, Debug)]
pub(in crate::snapshots) struct Stack {
    pub(in crate::snapshots) id: u64,
    pub(in crate::snapshots) kind: Kind,
    /// Its parent, that one's parent, ….
    pub(in crate::snapshots) parents: Vec<u64>,
    pub(in crate::snapshots) labels: Labels,
}

/// How snapshots lie on disk. All of it blocks.
pub(super) trait Driver: Send + Sync {
    /// Makes the folders of a new snapshot; complete or not at all, and for
    /// good.
    ///
    /// # Errors
    /// `InvalidArgument` when a label makes no sense; those of the disk.
    fn make(&self, new: &Stack) -> Result<()>;

    /// How a snapshot is mounted.
    fn mounts(&self, of: &Stack) -> Result<Vec<Mount>>;

    /// How much disk an active snapshot takes.
    fn usage(&self, of: &Stack) -> Result<Usage>;

    /// Whether [`Self::make`] makes a folder for such a snapshot.
    fn has_folder(&self, of: &Stack) -> bool {
        let _ = of;
        true
    }

    /// Whether a snapshot that was made without a parent can get one.
    fn can_rebase(&self) -> bool {
        false
    }

    /// Where a snapshot's folder is in the list of [`Self::areas`].
    fn area(&self, kind: Kind) -> &Folders;

    /// All places with folders of snapshots.
    fn areas(&self) -> Vec<&Folders>;

    /// Makes the folder of an active snapshot that of a committed one.
    ///
    /// # Errors
    /// Those of the disk.
    fn fix(&self, id: u64) -> Result<()> {
        let _ = id;
        Ok(())
    }

    /// Takes back [`Self::fix`].
    ///
    /// # Errors
    /// Those of the disk.
    fn unfix(&self, id: u64) -> Result<()> {
        let _ = id;
        Ok(())
    }

    /// Puts the folder of a snapshot where its kind belongs, if a daemon was
    /// killed in between.
    ///
    /// # Errors
    /// Those of the disk.
    fn mend(&self, id: u64, kind: Kind) -> Result<()> {
        let _ = (id, kind);
        Ok(())
    }

    /// Removes a folder with all that is in it; it may be gone.
    ///
    /// # Errors
    /// Those of the disk.
    fn delete(&self, path: &Path) -> Result<()> {
        folders::delete(path)
    }

    /// The folder that has what was written to a snapshot, for clients that ask
    /// for it by configuration.
    fn upper(&self, id: u64) -> Option<PathBuf> {
        let _ = id;
        None
    }

    /// What clients may rely on, in containerd's words.
    fn capabilities(&self) -> Vec<&'static str> {
        Vec::new()
    }
}

/// Path as text, for mount options.
pub(super) fn text(path: &Path) -> Result<&str> {
    let bad = || Error::invalid(format!("{} is no UTF-8", path.display()));
    path.to_str().ok_or_else(bad)
}
