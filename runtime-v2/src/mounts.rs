//! Which mounts are below a folder, and how to get rid of them.
//!
//! All of this blocks.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use containerd_mounts::mountinfo;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};
use shim_protocol::{Context, Error, Result};

/// How long a mount may stay busy before it is detached: processes that were
/// killed a moment ago still hold it.
const BUSY_LIMIT: Duration = Duration::from_millis(200);
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Unmounts all that is mounted at or below `folder`, innermost first, and
/// fails if something stays. Nothing mounted is success, and so is no folder.
///
/// # Errors
/// When the kernel refuses, or something new is mounted meanwhile.
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    // The kernel lists real paths.
    let folder = match fs::canonicalize(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context("find", folder.display())?,
    };
    let targets = mounts_below(&folder)?;
    if targets.is_empty() {
        return Ok(());
    }
    for target in targets.iter().rev() {
        unmount(target)?;
    }
    match mounts_below(&folder)?.first() {
        None => Ok(()),
        Some(left) => Err(Error::precondition(format!("{} stays mounted", left.display()))),
    }
}

/// Unmounts one mount; one that is busy for long is detached, so that it ends
/// when its last user does.
fn unmount(target: &Path) -> Result<()> {
    let started = Instant::now();
    loop {
        let flags = match started.elapsed() < BUSY_LIMIT {
            true => MntFlags::UMOUNT_NOFOLLOW,
            false => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
        };
        match umount2(target, flags) {
            // EINVAL: no mount point (any more).
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) => thread::sleep(BUSY_PAUSE),
            Err(e) => return Err(io::Error::from(e)).context("unmount", target.display()),
        }
    }
}

/// Mount points at or below `folder`, in the order of mounting.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let below = mountinfo::select(|entry| entry.point.starts_with(folder));
    let below = below.context("list mounts below", folder.display())?;
    Ok(below.into_iter().map(|entry| entry.point).collect())
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn stacked_and_nested_mounts_go_and_others_stay() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("with space");
        fs::create_dir_all(folder.join("a")).unwrap();
        let tmpfs = |target: &Path| {
            mount(Some("t"), target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        };
        tmpfs(outer.path());
        fs::create_dir_all(folder.join("a")).unwrap();
        tmpfs(&folder.join("a"));
        fs::create_dir(folder.join("a/b")).unwrap();
        tmpfs(&folder.join("a/b"));
        tmpfs(&folder.join("a"));
        unmount_below(&folder).unwrap();
        assert_eq!(mounts_below(outer.path()).unwrap(), [outer.path()]);
        unmount_below(outer.path()).unwrap();
        unmount_below(&outer.path().join("gone")).unwrap();
        assert_eq!(mounts_below(outer.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
