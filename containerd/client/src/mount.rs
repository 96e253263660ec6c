//! Mounting a snapshot on this side of the API: to look at its files, or for
//! somebody who wants to.
//!
//! Everything here blocks, by milliseconds as a rule.

use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use crate::{Result, RootMount};

/// Mounts all in order on a folder, which is made if it is not there.
///
/// # Errors
/// `PermissionDenied` without the right to mount; those of the system. What
/// was mounted before one that fails is unmounted.
pub fn mount_all(mounts: &[RootMount], target: &Path) -> Result<()> {
    Ok(containerd_mounts::mount_all(mounts, target)?)
}

/// Unmounts all that is mounted on a folder and below it; nothing there is
/// fine.
///
/// # Errors
/// Those of the system.
pub fn unmount_all(target: &Path) -> Result<()> {
    Ok(containerd_mounts::unmount_all(target)?)
}

/// Calls `look` with a folder in which the files of the mounts are, and which
/// only that call sees: nothing is left even if this program is killed. The
/// files cannot be changed there.
///
/// # Errors
/// As [`mount_all`]; those of `look`.
pub(crate) fn with_files<T: Send>(
    mounts: &[RootMount],
    look: impl FnOnce(&Path) -> Result<T> + Send,
) -> Result<T> {
    let mounts: Vec<RootMount> = mounts.iter().cloned().map(read_only).collect();
    Ok(containerd_mounts::with_mounted(&mounts, |folder| {
        // The descriptor is of this process.
        Ok(look(&PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())))?)
    })?)
}

/// The same files without the possibility to change them. An overlay without
/// upper folder leaves that one alone, which somebody may be about to mount.
fn read_only(mut mount: RootMount) -> RootMount {
    if mount.kind == "overlay" {
        let upper = mount.options.iter().find_map(|o| o.strip_prefix("upperdir="));
        if let Some(upper) = upper.map(str::to_owned) {
            mount.options.retain(|o| !o.starts_with("upperdir=") && !o.starts_with("workdir="));
            for option in &mut mount.options {
                if let Some(lower) = option.strip_prefix("lowerdir=") {
                    *option = format!("lowerdir={upper}:{lower}");
                }
            }
        }
    }
    mount.options.retain(|option| option != "rw");
    mount.options.push("ro".into());
    mount
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> RootMount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        RootMount { kind: kind.into(), options, ..RootMount::default() }
    }

    #[test]
    fn an_overlay_without_upper_folder_cannot_be_changed() {
        let overlay =
            mount("overlay", &["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a"]);
        assert_eq!(read_only(overlay).options, ["index=off", "lowerdir=/u:/b:/a", "ro"]);
        assert_eq!(read_only(mount("bind", &["rbind", "rw"])).options, ["rbind", "ro"]);
    }
}
