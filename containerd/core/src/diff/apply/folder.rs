//! A folder that is open, and what to know of it.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{OFlags, ResolveFlags, Stat, Timespec, Timestamps, fgetxattr_query, fstat, futimens},
    io::Errno,
};

/// To open a folder for what is done in it.
pub(in crate::diff) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Never by a link, and never out of the folder.
pub(in crate::diff) const STRAIGHT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A folder that things are put into. Its times are those of before when it is
/// left: it is the archive that says which it gets, and not the clock.
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    /// How much of the tree's path leads to it.
    pub(super) length: usize,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Whether what is made in it takes its group or its access list from it.
    pub(super) passes_on: bool,
    /// Something was made or removed in it.
    pub(super) changed: bool,
    pub(super) times: Timestamps,
}

impl Folder {
    pub(super) fn new(fd: OwnedFd, length: usize) -> Result<Self, Errno> {
        let stat = fstat(&fd)?;
        let list = fgetxattr_query(&fd, "system.posix_acl_default");
        Ok(Self {
            fd,
            length,
            device: stat.st_dev,
            inode: stat.st_ino,
            passes_on: stat.st_mode & 0o2000 != 0 || list.is_ok(),
            changed: false,
            times: times_of(&stat),
        })
    }

    pub(super) fn leave(self) -> Result<(), Errno> {
        if self.changed { futimens(&self.fd, &self.times) } else { Ok(()) }
    }
}

/// The times that a file has.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |tv_sec: i64, tv_nsec: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(tv_nsec).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
