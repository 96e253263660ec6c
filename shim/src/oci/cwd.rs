//! The working directory of a container's process: made if the image lacks it,
//! as by runc.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

/// Makes `cwd` in a root filesystem, whatever its links point to. If that does
/// not work out, or a mount will hide it, the process itself says so.
pub(super) fn ensure(rootfs: &Path, cwd: &Path) {
    let Ok(root) = File::open(rootfs) else { return };
    let below = cwd.strip_prefix("/").unwrap_or(cwd);
    if below.as_os_str().is_empty() || open(root.as_fd(), below).is_ok() {
        return;
    }
    let mut done = Path::new("").to_owned();
    for part in below {
        let parent = match done.as_os_str().is_empty() {
            true => open(root.as_fd(), Path::new(".")),
            false => open(root.as_fd(), &done),
        };
        done.push(part);
        // Whatever is wrong shows when the process goes there.
        let Ok(parent) = parent else { return };
        let mode = Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH;
        let _ = mkdirat(&parent, Path::new(part), mode);
    }
}

fn open(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat2(root, path, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT))
}
