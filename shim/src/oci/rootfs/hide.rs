//! What a container must not see or change of what its mounts have.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use containerd_mounts::{
    attributes::{self, Attributes},
    tree::{self, Depth},
};
use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat2},
    mount::MountFlags,
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{devices, mounts, root::here};

/// Makes a path of this root read-only. One that is not there is fine.
pub(super) fn protect(path: &Path) -> Result<()> {
    let made = || -> io::Result<()> {
        let target = here(path)?;
        let tree = tree::clone_open(target.as_fd(), Depth::All)?;
        attributes::change(tree.as_fd(), Attributes::READ_ONLY, false)?;
        tree::attach(tree.as_fd(), target.as_fd())
    };
    match made() {
        Err(e) if is_absent(&e) => Ok(()),
        made => made.context("set", format_args!("linux.readonlyPaths: {}", path.display())),
    }
}

/// Hides paths of this root: folders become empty, files are `/dev/null`. One
/// that is not there is fine.
pub(super) fn mask<'a>(paths: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut null = None;
    let mut empty = None;
    for path in paths {
        mask_one(Path::new(path), &mut null, &mut empty)
            .context("set", format_args!("linux.maskedPaths: {path}"))?;
    }
    Ok(())
}

fn mask_one(
    path: &Path,
    null: &mut Option<OwnedFd>,
    empty: &mut Option<OwnedFd>,
) -> io::Result<()> {
    let target = match here(path) {
        Err(e) if is_absent(&e) => return Ok(()),
        target => target?,
    };
    if !mounts::is_folder(target.as_fd())? {
        if null.is_none() {
            *null = Some(devices::null()?);
        }
        return cover(null.as_ref(), target.as_fd());
    }
    if empty.is_some() {
        return cover(empty.as_ref(), target.as_fd());
    }
    // One empty folder is enough for all of them.
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, None)?;
    *empty = Some(here(path)?);
    Ok(())
}

fn cover(with: Option<&OwnedFd>, target: BorrowedFd<'_>) -> io::Result<()> {
    let Some(with) = with else { return Ok(()) };
    let tree = tree::clone_open(with.as_fd(), Depth::One)?;
    tree::attach(tree.as_fd(), target)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Sets a kernel parameter of the container's namespaces.
pub(super) fn set_parameter(name: &str, value: &str) -> Result<()> {
    let write = || -> io::Result<()> {
        let folder = here(Path::new("/proc/sys"))?;
        // Anything else there would only look as if it took it.
        if fstatfs(&folder)?.f_type != PROC_SUPER_MAGIC {
            return Err(io::Error::new(io::ErrorKind::NotFound, "/proc is not mounted"));
        }
        let path = name.replace('.', "/");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = openat2(&folder, &*path, flags, Mode::empty(), inside)?;
        io::Write::write_all(&mut fs::File::from(file), value.as_bytes())
    };
    write().map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, format!("linux.sysctl: {name} = {value}"), e)
    })
}
