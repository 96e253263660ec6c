//! Mounting what is no folder yet, for a while and where nobody else sees it.

use std::os::fd::OwnedFd;

use shim_protocol::{Error, Result};

use crate::Mount;

/// Mounts all, each on top of the one before or inside of it, and does `work`
/// with the folder that this makes. Blocks.
///
/// # Errors
/// As [`containerd_mounts::mount_all`]; `Unimplemented` for mounts in which files
/// show other owners than they have, since layers say whose they are; those of
/// the work.
pub(super) fn with<T: Send>(
    mounts: &[Mount],
    work: impl FnOnce(OwnedFd) -> Result<T> + Send,
) -> Result<T> {
    let mut options = mounts.iter().flat_map(|mount| &mount.options);
    match options.find(|option| option.contains("idmap=") || is_mapping(option)) {
        Some(option) => Err(Error::unimplemented(format!("mount option {option:?}"))),
        None => containerd_mounts::with_mounted(mounts, work),
    }
}

/// Does it say that users or groups are others than on disk?
pub(super) fn is_mapping(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=")
}
