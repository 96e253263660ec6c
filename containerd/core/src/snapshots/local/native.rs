//! Snapshots as whole copies of their parents: slow and large, but any
//! filesystem will do.
//!
//! ```text
//! <root>/snapshots/<n>/      all that a snapshot shows
//! ```

use std::path::Path;

use shim_protocol::{Context, Result};

use super::{
    copy,
    driver::{Driver, Stack, text},
    folders::{self, Folders},
    usage,
};
use crate::{
    Mount,
    snapshots::{Kind, Usage},
};

/// See the [module](self).
pub(super) struct Native {
    folders: Folders,
}

impl Native {
    /// Copies in `root`.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(root: &Path) -> Result<Self> {
        Ok(Self { folders: Folders::open(root.join("snapshots"), 0o700)? })
    }
}

impl Driver for Native {
    fn make(&self, new: &Stack) -> Result<()> {
        if !self.has_folder(new) {
            return Ok(());
        }
        let at = self.folders.new_path(new.id);
        folders::make(&at, 0o755)?;
        let filled = match new.parents.first() {
            Some(parent) => {
                let parent = self.folders.path(*parent);
                copy::tree(&parent, &at).context("copy", parent.display())
            }
            None => Ok(()),
        };
        let made = filled.and_then(|()| self.folders.place(new.id));
        if made.is_err() {
            folders::delete(&at)?;
        }
        made
    }

    fn mounts(&self, of: &Stack) -> Result<Vec<Mount>> {
        let id = match of.parents.first() {
            Some(parent) if !self.has_folder(of) => *parent,
            _ => of.id,
        };
        let access = if of.kind == Kind::View { "ro" } else { "rw" };
        Ok(vec![Mount {
            kind: "bind".into(),
            source: text(&self.folders.path(id))?.to_owned(),
            target: String::new(),
            options: vec!["rbind".into(), access.into()],
        }])
    }

    fn usage(&self, of: &Stack) -> Result<Usage> {
        usage::of(&self.folders.path(of.id))
    }

    /// A view shows the parent itself.
    fn has_folder(&self, of: &Stack) -> bool {
        of.kind != Kind::View || of.parents.is_empty()
    }

    fn area(&self, _kind: Kind) -> &Folders {
        &self.folders
    }

    fn areas(&self) -> Vec<&Folders> {
        vec![&self.folders]
    }
}
