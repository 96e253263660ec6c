//! Mounting the root filesystem.

use std::path::Path;

use shim_protocol::{Error, Result};

/// One mount(2) call, as the snapshotter describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Filesystem type, such as "overlay" or "bind".
    pub kind: String,
    /// Device, folder or name; its meaning depends on the type.
    pub source: String,
    /// Where below the rootfs it goes; empty is the rootfs itself.
    pub target: String,
    /// Options in fstab's manner: flags and data mixed.
    pub options: Vec<String>,
}

/// Mounts all in order on `rootfs`, which is made if it is not there. Blocks.
///
/// # Errors
/// When one fails, those before it are undone. `InvalidArgument` for a target
/// or options that make no sense.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    let _ = (mounts, rootfs);
    Err(Error::unimplemented("mount"))
}

/// Unmounts everything on and below `rootfs`; nothing there is fine. Blocks.
///
/// # Errors
/// When something stays mounted: nothing below `rootfs` may be removed then.
pub fn unmount_all(rootfs: &Path) -> Result<()> {
    let _ = rootfs;
    Err(Error::unimplemented("unmount"))
}
