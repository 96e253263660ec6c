//! Owners, modes, times and extended attributes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::{
    fs::{
        AtFlags, Gid, Mode, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
        fgetxattr, flistxattr, flistxattr_query, fremovexattr, fsetxattr, lgetxattr, llistxattr,
        llistxattr_query, lremovexattr, lsetxattr, utimensat,
    },
    io::Errno,
};

use crate::diff::tar::Xattrs;

/// The longest value of an extended attribute, and the longest list of names
/// (Linux's `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_XATTR_BYTES: usize = 64 << 10;

/// Attributes that go into layers: not those of this machine alone (labels and
/// hashes of its security modules), and not those of an overlay's layers.
pub(in crate::diff) fn is_of_layers(name: &[u8]) -> bool {
    let acl = name.starts_with(b"system.posix_acl_");
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    name == b"security.capability" || acl || user
}

/// Something that was just made: open, or by its name in a folder.
#[derive(Clone, Copy)]
pub(in crate::diff) enum Made<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Made<'_> {
    pub(super) fn set_owner(self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => fchown(fd, uid, gid),
            Self::Named(folder, name) => chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Not for symbolic links: they have none, and it would follow.
    pub(super) fn set_mode(self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_bits_truncate(mode);
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Named(folder, name) => chmodat(folder, name, mode, AtFlags::empty()),
        }
    }

    pub(super) fn set_times(self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Named(folder, name) => utimensat(folder, name, times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(super) fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(folder, file) => {
                lsetxattr(path(folder, file), name, value, XattrFlags::empty())
            }
        }
    }

    pub(super) fn remove_xattr(self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Named(folder, file) => lremovexattr(path(folder, file), name),
        }
    }

    /// Names and values of the extended attributes that `wanted` picks.
    pub(in crate::diff) fn xattrs(self, wanted: impl Fn(&[u8]) -> bool) -> Result<Xattrs, Errno> {
        // Most files have none: no buffer for them.
        match self.list_length() {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
        let mut list = vec![0; MAX_XATTR_BYTES];
        let length = self.list(&mut list)?;
        let mut found = Vec::new();
        for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if !wanted(name) {
                continue;
            }
            let mut value = vec![0; MAX_XATTR_BYTES];
            match self.get(name, &mut value) {
                Ok(length) => value.truncate(length),
                Err(Errno::NODATA | Errno::NOTSUP) => continue,
                Err(e) => return Err(e),
            }
            value.shrink_to_fit();
            found.push((name.to_owned(), value));
        }
        found.sort();
        Ok(found)
    }

    fn list_length(self) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => flistxattr_query(fd),
            Self::Named(folder, file) => llistxattr_query(path(folder, file)),
        }
    }

    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Named(folder, file) => llistxattr(path(folder, file), buffer),
        }
    }

    fn get(self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => fgetxattr(fd, name, buffer),
            Self::Named(folder, file) => lgetxattr(path(folder, file), name, buffer),
        }
    }
}

/// A path to something in a folder that is open, for calls that take no
/// descriptor. (`setxattrat` and its kin are as young as Linux 6.13.)
fn path(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
