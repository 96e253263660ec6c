//! A tmpfs that begins with what the image has in its place: owners, modes,
//! links, extended attributes and times. Nothing is followed out of the root
//! filesystem.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fgetxattr, flistxattr, fsetxattr, fstat, linkat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat, utimensat,
};
use shim_protocol::{Context, Error, Result};

/// Deeper than any image, and no deeper than the stack allows.
const MAX_DEPTH: usize = 1000;
const MODE_BITS: u32 = 0o7777;
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` (`include/uapi/linux/limits.h`).
const MAX_ATTRIBUTE_BYTES: usize = 65_536;

/// Copies what is in the folder `source` into `target`, which is empty.
///
/// # Errors
/// `ResourceExhausted` when the content does not fit, else what the filesystems
/// say.
pub(super) fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let open = |folder| {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(folder, ".", flags, Mode::empty()).map_err(io::Error::from)
    };
    let source = open(source).context("open", "what is there")?;
    let top = open(target).context("open", "the tmpfs")?;
    Copy { top: &top, seen: HashMap::new() }.folder(&source, &top, Path::new(""), 0)
}

struct Copy<'a> {
    top: &'a OwnedFd,
    /// Files of more than one name, by device and number: the first name.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    /// Copies what is in `source` to `target`, which is `path` from the top.
    fn folder(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        path: &Path,
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid("the image's folders are too deep"));
        }
        let entries = Dir::read_from(source).map_err(io::Error::from);
        for entry in entries.context("list", path.display())? {
            let entry = entry.map_err(io::Error::from).context("list", path.display())?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let path = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(source, target, name, &path, depth).map_err(|error| {
                // The innermost name is the longest.
                match error {
                    Failure::Here(error) => Error::caused(
                        shim_protocol::error::io_kind(&error),
                        format!("copy {}", path.display()),
                        error,
                    ),
                    Failure::Below(error) => error,
                }
            })?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> std::result::Result<(), Failure> {
        let status = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(status.st_mode);
        let id = (status.st_dev, status.st_ino);
        if kind != FileType::Directory && status.st_nlink > 1 {
            if let Some(first) = self.seen.get(&id) {
                linkat(self.top, first, target, name, AtFlags::empty())?;
                return Ok(());
            }
            self.seen.insert(id, path.to_owned());
        }
        match kind {
            FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = openat(source, name, flags, Mode::empty())?;
                mkdirat(target, name, Mode::RWXU)?;
                let to = openat(target, name, flags, Mode::empty())?;
                self.folder(&from, &to, path, depth + 1).map_err(Failure::Below)?;
                finish(&status, target, name)?;
                attributes(&from, &to)?;
                dress(&status, &to)?;
            }
            FileType::RegularFile => {
                // What is no file any more must not keep us waiting.
                let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = openat(source, name, flags, Mode::empty())?;
                if FileType::from_raw_mode(fstat(&from)?.st_mode) != kind {
                    return Err(Failure::Here(io::ErrorKind::InvalidData.into()));
                }
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let to = openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
                let (mut from, mut to) = (File::from(from), File::from(to));
                io::copy(&mut from, &mut to)?;
                finish(&status, target, name)?;
                attributes(&from, &to)?;
                dress(&status, &to)?;
            }
            FileType::Symlink => {
                let place = readlinkat(source, name, Vec::new())?;
                symlinkat(place.as_c_str(), target, name)?;
                finish(&status, target, name)?;
            }
            _ => {
                let mode = Mode::from_raw_mode(status.st_mode);
                mknodat(target, name, kind, mode, status.st_rdev)?;
                finish(&status, target, name)?;
                // A mask may have had a say.
                let flags = AtFlags::empty();
                rustix::fs::chmodat(target, name, mode, flags)?;
            }
        }
        times(&status, target, name)?;
        Ok(())
    }
}

enum Failure {
    Here(io::Error),
    /// It says where.
    Below(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Here(error)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Here(error.into())
    }
}

/// Gives it its owner. That takes bits of the mode and attributes away.
fn finish(status: &Stat, target: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    chownat(target, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}

fn dress(status: &Stat, to: impl AsFd) -> rustix::io::Result<()> {
    fchmod(to, Mode::from_raw_mode(status.st_mode & MODE_BITS))
}

fn times(status: &Stat, target: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as i64 };
    let times = Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    };
    utimensat(target, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Extended attributes (xattr(7)). Those that a tmpfs does not take are left
/// out, as by runc.
fn attributes(from: impl AsFd, to: impl AsFd) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    let names = match whole(|buffer| flistxattr(from.as_fd(), buffer)) {
        Err(Errno::NOTSUP) => return Ok(()),
        names => names?,
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name).map(CString::from) else { continue };
        let value = whole(|buffer| fgetxattr(from.as_fd(), &name, buffer))?;
        match fsetxattr(to.as_fd(), &name, &value, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {}
            set => set?,
        }
    }
    Ok(())
}

/// What the kernel gives, however much it is.
fn whole(read: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = read(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}
