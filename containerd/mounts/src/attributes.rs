//! Attributes of mounts (mount_setattr(2), since Linux 5.12).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

use crate::sys;

/// Which attributes are to be set and which to be cleared; what is in neither
/// stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    set: u64,
    clear: u64,
}

impl Attributes {
    /// A mount that only allows reading.
    pub const READ_ONLY: Self = Self { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };

    /// Sets or clears one more. The times of access are one attribute with
    /// several values, and the kernel wants it cleared in any case.
    pub fn change(&mut self, set: bool, attribute: u64) {
        let is_time = attribute & !libc::MOUNT_ATTR__ATIME == 0;
        match (set, is_time) {
            (true, true) => {
                self.set = self.set & !libc::MOUNT_ATTR__ATIME | attribute;
                self.clear |= libc::MOUNT_ATTR__ATIME;
            }
            (false, true) => {
                self.clear |= libc::MOUNT_ATTR__ATIME;
                if self.set & libc::MOUNT_ATTR__ATIME == attribute {
                    self.set &= !libc::MOUNT_ATTR__ATIME;
                }
            }
            (true, false) => {
                self.set |= attribute;
                self.clear &= !attribute;
            }
            (false, false) => {
                self.set &= !attribute;
                self.clear |= attribute;
            }
        }
    }

    /// Is an attribute to be set?
    pub fn has(self, attribute: u64) -> bool {
        self.set & attribute == attribute
    }

    /// The same without one.
    pub fn without(self, attribute: u64) -> Self {
        Self { set: self.set & !attribute, ..self }
    }
}

/// Changes the attributes of a mount, and of all that are mounted in it if it
/// is `recursive`.
///
/// # Errors
/// `EINVAL` when `mount` is something in a mount; `EPERM` for an attribute that
/// must not be cleared in a user namespace.
pub fn change(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    let Attributes { set: attr_set, clear: attr_clr } = attributes;
    sys::set_attributes(
        mount,
        libc::mount_attr { attr_set, attr_clr, propagation: 0, userns_fd: 0 },
        recursive,
    )
}

/// Has a mount and all that are mounted in it follow those that they are copies
/// of, and not lead them.
///
/// # Errors
/// As [`change`].
pub fn follow(mount: BorrowedFd<'_>) -> io::Result<()> {
    let propagation = libc::MS_SLAVE;
    sys::set_attributes(
        mount,
        libc::mount_attr { attr_set: 0, attr_clr: 0, propagation, userns_fd: 0 },
        true,
    )
}

/// Lets the files of a mount that is attached nowhere, and of all that are
/// mounted in it if it is `recursive`, belong to whom a user namespace maps their
/// owners to.
///
/// # Errors
/// `EINVAL` when the filesystem cannot do that, `EPERM` when it is done already.
pub fn map_ids(
    mount: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    recursive: bool,
) -> io::Result<()> {
    let attr_set = libc::MOUNT_ATTR_IDMAP;
    let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    sys::set_attributes(
        mount,
        libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd },
        recursive,
    )
}
