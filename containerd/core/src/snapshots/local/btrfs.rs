//! Snapshots as those of btrfs, each a subvolume.
//!
//! ```text
//! <root>/
//! ├──active/<n>
//! ├──view/<n>
//! └──snapshots/<n>      committed
//! ```

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, statfs};
use shim_protocol::{Context, Error, Result};

use super::{
    driver::{Driver, Stack},
    folders::{self, Folders, rename_new},
    sys, usage,
};
use crate::{
    Mount,
    snapshots::{Kind, Usage},
};

/// See the [module](self).
pub(super) struct Btrfs {
    /// What to mount.
    device: String,
    active: Folders,
    view: Folders,
    committed: Folders,
}

impl Btrfs {
    /// Subvolumes in `root`.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not on btrfs; those of the disk.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let found = statfs(root).map_err(io::Error::from).context("look at", root.display())?;
        if found.filesystem_type() != BTRFS_SUPER_MAGIC {
            let text = format!("{} is not on btrfs", root.display());
            return Err(Error::precondition(text));
        }
        let folders = |name: &str| Folders::open(root.join(name), 0o755);
        Ok(Self {
            device: device(root)?,
            active: folders("active")?,
            view: folders("view")?,
            committed: folders("snapshots")?,
        })
    }

    /// Moves the subvolume of an active snapshot to the committed ones.
    fn move_to_committed(&self, id: u64) -> Result<()> {
        let (from, to) = (self.active.path(id), self.committed.path(id));
        rename_new(&from, &to).context("rename", from.display())?;
        // Last: one that is read-only cannot be moved.
        let read_only = self.set_read_only(&to, true);
        let moved = read_only.and_then(|()| self.committed.sync());
        if moved.is_err()
            && let Err(e) = self.move_to_active(id)
        {
            tracing::warn!(error = %e.report(), "a snapshot that is not committed is not active");
        }
        moved
    }

    fn move_to_active(&self, id: u64) -> Result<()> {
        let (from, to) = (self.committed.path(id), self.active.path(id));
        let writable = self.set_read_only(&from, false);
        // Even so: it may be writable already, and belongs there.
        let moved = rename_new(&from, &to).context("rename", from.display());
        writable.and(moved).and_then(|()| self.active.sync())
    }

    fn set_read_only(&self, path: &Path, read_only: bool) -> Result<()> {
        let what = if read_only { "make read-only" } else { "make writable" };
        let subvolume = File::open(path).context("open", path.display())?;
        sys::set_read_only(&subvolume, read_only).context(what, path.display())
    }
}

impl Driver for Btrfs {
    fn make(&self, new: &Stack) -> Result<()> {
        // The kernel makes a subvolume in one step.
        let folders = self.area(new.kind);
        let path = folders.path(new.id);
        let at = path.parent().unwrap_or(&path);
        let folder = File::open(at).context("open", at.display())?;
        let name = new.id.to_string();
        match new.parents.first() {
            None => sys::create(&folder, &name),
            Some(parent) => {
                let parent = self.committed.path(*parent);
                let parent = File::open(&parent).context("open", parent.display())?;
                sys::snapshot(&folder, &name, parent.as_fd(), new.kind == Kind::View)
            }
        }
        .context("make the subvolume", path.display())?;
        folders.sync()
    }

    fn mounts(&self, of: &Stack) -> Result<Vec<Mount>> {
        let path = self.area(of.kind).path(of.id);
        let subvolume = File::open(&path).context("open", path.display())?;
        let number = sys::number(&subvolume).context("look up the subvolume", path.display())?;
        let mut options = vec![format!("subvolid={number}")];
        if of.kind != Kind::Active {
            options.push("ro".into());
        }
        let source = self.device.clone();
        Ok(vec![Mount { kind: "btrfs".into(), source, target: String::new(), options }])
    }

    fn usage(&self, of: &Stack) -> Result<Usage> {
        let path = self.area(of.kind).path(of.id);
        match of.parents.first() {
            Some(parent) => usage::beyond(&path, &self.committed.path(*parent)),
            None => usage::of(&path),
        }
    }

    fn area(&self, kind: Kind) -> &Folders {
        match kind {
            Kind::Active => &self.active,
            Kind::View => &self.view,
            Kind::Committed => &self.committed,
        }
    }

    fn areas(&self) -> Vec<&Folders> {
        vec![&self.active, &self.view, &self.committed]
    }

    fn fix(&self, id: u64) -> Result<()> {
        self.move_to_committed(id)
    }

    fn unfix(&self, id: u64) -> Result<()> {
        self.move_to_active(id)
    }

    fn mend(&self, id: u64, kind: Kind) -> Result<()> {
        let (active, committed) = (self.active.path(id), self.committed.path(id));
        match kind {
            Kind::Active if !active.exists() && committed.exists() => self.move_to_active(id),
            Kind::Committed if !committed.exists() && active.exists() => self.move_to_committed(id),
            Kind::Committed if committed.exists() => self.set_read_only(&committed, true),
            _ => Ok(()),
        }
    }

    fn delete(&self, path: &Path) -> Result<()> {
        delete(path).context("remove", path.display())
    }
}

/// Removes a subvolume with others in it, such as a container may have made; or
/// a folder. Somebody else may be removing the same.
fn delete(path: &Path) -> io::Result<()> {
    match delete_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.try_exists()? => Ok(()),
        other => other,
    }
}

fn delete_all(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !found.is_dir() || found.ino() != sys::FIRST_INODE {
        return folders::delete(path).map_err(io::Error::other);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let name = name.to_string_lossy();
    let folder = File::open(parent)?;
    match destroy(&folder, &name) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        other => return other,
    }
    // What is read-only must be written to for that.
    sys::set_read_only(&File::open(path)?, false)?;
    for inner in inner_subvolumes(path)? {
        delete(&inner)?;
    }
    destroy(&folder, &name)
}

/// Removes a subvolume that has no others in it, if it is there.
fn destroy(folder: &File, name: &str) -> io::Result<()> {
    unless_gone(sys::destroy(folder, name)).map(drop)
}

/// Subvolumes below a folder, but not those in them; without those that go
/// meanwhile.
fn inner_subvolumes(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Some(entries) = unless_gone(fs::read_dir(&folder))? else { continue };
        for entry in entries {
            let entry = entry?;
            let Some(metadata) = unless_gone(entry.metadata())? else { continue };
            match metadata.is_dir() {
                true if metadata.ino() == sys::FIRST_INODE => found.push(entry.path()),
                true => folders.push(entry.path()),
                false => {}
            }
        }
    }
    Ok(found)
}

fn unless_gone<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The device that is mounted where `folder` is (proc(5), `mountinfo`).
fn device(folder: &Path) -> Result<String> {
    let folder = fs::canonicalize(folder).context("find", folder.display())?;
    let path = "/proc/self/mountinfo";
    let table = fs::read_to_string(path).context("read", path)?;
    let mut found: Option<(usize, &str)> = None;
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let point = before.split(' ').nth(4).unwrap_or_default();
        let depth = point.len();
        // A later one covers an earlier one.
        if folder.starts_with(point) && found.is_none_or(|(deepest, _)| depth >= deepest) {
            found = after.split(' ').nth(1).map(|device| (depth, device));
        }
    }
    let missing = || Error::internal(format!("{} is below no mount", folder.display()));
    found.map(|(_, device)| device.to_owned()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It went between the look at it and its removal.
    #[test]
    fn what_somebody_else_has_removed_is_removed() {
        let Some(image) = crate::snapshots::testing::Btrfs::make() else { return };
        let folder = File::open(image.path()).unwrap();
        sys::create(&folder, "one").unwrap();
        for _ in 0..2 {
            destroy(&folder, "one").unwrap();
        }
        assert_eq!(sys::destroy(&folder, "one").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(inner_subvolumes(&image.path().join("one")).unwrap().is_empty());
        delete(&image.path().join("one")).unwrap();
    }
}
