//! Devices of the host, for a container.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::{Context, Error, Result};

/// Entries of `/dev` that every container has its own of, or that belong to
/// other container managers.
const SKIPPED: [&str; 8] =
    ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];

/// The device at `path`, or all devices below it.
///
/// # Errors
/// `NotFound`, or `InvalidArgument` when it is no device.
pub(super) fn find(path: &Path) -> Result<Vec<LinuxDevice>> {
    let metadata = fs::metadata(path).context("find device", path.display())?;
    let mut devices = Vec::new();
    if metadata.is_dir() {
        collect(path, &mut devices).context("list devices in", path.display())?;
    } else {
        let device = from_path(path).context("find device", path.display())?;
        devices.push(
            device.ok_or_else(|| Error::invalid(format!("{} is not a device", path.display())))?,
        );
    }
    Ok(devices)
}

fn collect(folder: &Path, devices: &mut Vec<LinuxDevice>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if SKIPPED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), devices)?;
            continue;
        }
        match from_path(&entry.path()) {
            Ok(device) => devices.extend(device),
            // Devices come and go.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The device that `path` itself is, not what it links to.
fn from_path(path: &Path) -> io::Result<Option<LinuxDevice>> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    let kind = if kind.is_block_device() {
        LinuxDeviceType::B
    } else if kind.is_char_device() {
        LinuxDeviceType::C
    } else {
        return Ok(None);
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind)
        .set_major(number(major(metadata.rdev())))
        .set_minor(number(minor(metadata.rdev())))
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Ok(Some(device))
}

/// The kernel's device numbers have at most 32 bits each.
fn number(number: u64) -> i64 {
    i64::from(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn one_device() {
        let devices = find(Path::new("/dev/null")).unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!((devices[0].major(), devices[0].minor()), (1, 3));
        assert_eq!(devices[0].typ(), LinuxDeviceType::C);
    }

    #[test]
    fn all_devices_without_the_private_ones() {
        let devices = find(Path::new("/dev")).unwrap();
        assert!(devices.iter().any(|d| d.path() == Path::new("/dev/zero")));
        assert!(!devices.iter().any(|d| d.path().starts_with("/dev/pts")));
    }

    #[test]
    fn what_is_no_device() {
        assert_eq!(find(Path::new("/etc/passwd")).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(find(Path::new("/dev/nothing")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
