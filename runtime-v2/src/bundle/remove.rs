//! Removing folders, but nothing through a mount.
//!
//! A walk that is not allowed to cross a mount needs no list of all mounts, of
//! which a machine with many containers has many; and it cannot be deceived by
//! one that is made meanwhile.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    NixPath,
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{self, OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};
use shim_protocol::{Context, Error, Result};

use crate::mounts;

/// Removes a folder with what is in it, renamed first so that a half-removed
/// one is never taken for a whole one. A missing one is success.
///
/// # Errors
/// `FailedPrecondition` when a mount stays.
pub(super) fn tree(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::internal(format!("refuse to remove {}", path.display())));
    };
    let aside = parent.join(format!(".{}", name.to_string_lossy()));
    let renamed = match fs::rename(path, &aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return hidden(&aside),
        // An earlier removal was cut short, or something is mounted there.
        Err(_) => {
            hidden(&aside)?;
            mounts::unmount_below(path)?;
            fs::rename(path, &aside)
        }
        renamed => renamed,
    };
    renamed.context("set aside", path.display())?;
    hidden(&aside)
}

/// Removes a folder that was set aside. A missing one is success.
///
/// # Errors
/// As [`tree`].
pub(super) fn hidden(path: &Path) -> Result<()> {
    match remove(path) {
        // EXDEV: a mount is in the way, and EBUSY: it is that of a file. ENOSYS:
        // before Linux 5.6 the walk would not notice.
        Err(Errno::EXDEV | Errno::EBUSY | Errno::ENOSYS) => {}
        removed => return removed.map_err(io::Error::from).context("remove", path.display()),
    }
    mounts::unmount_below(path)?;
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", path.display()),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> nix::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL);
    };
    // The way to the folder may lead over mounts, only what is below may not.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match fcntl::open(parent, flags, Mode::empty()) {
        Err(Errno::ENOENT) => Ok(()),
        parent => remove_entry(parent?.as_fd(), name),
    }
}

fn remove_entry<P: ?Sized + NixPath>(parent: BorrowedFd<'_>, name: &P) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    let flags = match openat2(parent, name, how) {
        Ok(folder) => {
            empty(folder)?;
            UnlinkatFlags::RemoveDir
        }
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => UnlinkatFlags::NoRemoveDir,
        Err(error) => return Err(error),
    };
    gone(unlinkat(parent, name, flags))
}

/// Removes what is in a folder.
fn empty(folder: OwnedFd) -> nix::Result<()> {
    let mut folder = Dir::from_fd(folder)?;
    // The list is taken first: removing while reading may skip entries.
    let entries: Vec<_> = folder.iter().collect::<nix::Result<_>>()?;
    for entry in entries {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Not all filesystems tell what it is.
        match entry.file_type() {
            None | Some(Type::Directory) => remove_entry(folder.as_fd(), name)?,
            Some(_) => gone(unlinkat(folder.as_fd(), name, UnlinkatFlags::NoRemoveDir))?,
        }
    }
    Ok(())
}

fn gone(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}
