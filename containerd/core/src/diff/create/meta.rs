//! What is compared of files.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat},
    io::{Errno, read},
};

use crate::diff::{
    apply::{Made, is_of_layers},
    tar::Xattrs,
};

/// How much of two files is compared at once.
const COMPARED_BYTES: usize = 64 << 10;

/// Attributes that say that an overlay's layer is more than it shows: a folder
/// has another name below, or a file has its data there.
fn is_indirect(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"trusted.").or_else(|| name.strip_prefix(b"user."));
    matches!(name, Some(b"overlay.redirect" | b"overlay.metacopy"))
}

/// What is known of a file without opening it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, u64),
    pub(super) links: u64,
    pub(super) identity: (u64, u64),
}

impl Meta {
    pub(super) fn of(folder: &OwnedFd, name: &[u8]) -> Result<Option<Self>, Errno> {
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Self::from(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether it stands for nothing in an overlay's layer.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == FileType::CharacterDevice && self.device == 0
    }
}

impl From<&Stat> for Meta {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: stat.st_rdev,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            links: stat.st_nlink,
            identity: (stat.st_dev, stat.st_ino),
        }
    }
}

/// A file by its name in a folder that is open.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) folder: &'a OwnedFd,
    pub(super) name: &'a [u8],
    pub(super) meta: &'a Meta,
}

impl At<'_> {
    /// The extended attributes that go into a layer; none if an overlay's layer
    /// is more than it shows here.
    pub(super) fn xattrs(self) -> Result<Option<Xattrs>, Errno> {
        let made = Made::Named(self.folder.as_fd(), self.name);
        let mut found = made.xattrs(|name| is_of_layers(name) || is_indirect(name))?;
        let all = found.len();
        found.retain(|(name, _)| !is_indirect(name));
        Ok((found.len() == all).then_some(found))
    }

    pub(super) fn target(self) -> Result<Vec<u8>, Errno> {
        Ok(readlinkat(self.folder, self.name, Vec::new())?.into_bytes())
    }

    pub(super) fn open(self) -> Result<OwnedFd, Errno> {
        // Should it be something else by now, it must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(self.folder, self.name, flags, Mode::empty())
    }

    /// Whether a layer needs nothing to make one of the other. Times tell, but
    /// of a folder; where archives may have cut them to seconds, data does (as
    /// in containerd).
    pub(super) fn is_like(self, other: At<'_>) -> Result<bool, Errno> {
        let (a, b) = (self.meta, other.meta);
        if a.identity == b.identity {
            return Ok(true);
        }
        if (a.mode, a.uid, a.gid, a.device) != (b.mode, b.uid, b.gid, b.device) {
            return Ok(false);
        }
        if !a.is_folder() {
            if a.size != b.size || a.modified != b.modified {
                return Ok(false);
            }
            if a.modified.1 == 0 && !self.has_data_of(other)? {
                return Ok(false);
            }
        }
        Ok(self.xattrs()? == other.xattrs()?)
    }

    fn has_data_of(self, other: At<'_>) -> Result<bool, Errno> {
        match self.meta.kind() {
            FileType::Symlink => Ok(self.target()? == other.target()?),
            FileType::RegularFile if self.meta.size > 0 => same_data(&self.open()?, &other.open()?),
            _ => Ok(true),
        }
    }
}

fn same_data(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    let (mut one, mut other) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    loop {
        let (x, y) = (fill(a, &mut one)?, fill(b, &mut other)?);
        if x != y {
            return Ok(false);
        }
        if x.is_empty() {
            return Ok(true);
        }
    }
}

fn fill<'a>(file: &OwnedFd, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(file, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buffer[..filled])
}
