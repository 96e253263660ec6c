//! Copies a folder with all that is in it: files of every type with owner,
//! mode, times, extended attributes, and several names of one file.
//!
//! Each step goes by an open folder and a single name, so that links inside
//! lead nowhere else and no path is too long.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        self, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps,
        Uid, XattrFlags,
    },
    io::{self, Errno},
};
use shim_protocol::{Context, Result};

/// How much is copied at a time where the kernel does not do it.
const PIECE_BYTES: usize = 256 << 10;

/// Copies what is in `from` into the folder `to`, which gets its mode, owner,
/// times and attributes too.
///
/// # Errors
/// Those of the disk.
pub(super) fn tree(from: &Path, to: &Path) -> Result<()> {
    let from_folder = open_folder(CWD, &c_path(from)?).map_err(std::io::Error::from);
    let from_folder = from_folder.context("open", from.display())?;
    let to_folder = open_folder(CWD, &c_path(to)?).map_err(std::io::Error::from);
    let to_folder = to_folder.context("open", to.display())?;
    let mut copy = Copy { root: to_folder.as_fd(), seen: HashMap::new(), path: PathBuf::new() };
    copy.folder(from_folder.as_fd(), to_folder.as_fd())
        .map_err(std::io::Error::from)
        .context("copy", copy.path.display())
}

/// Room for attributes that is tried first, in bytes.
const FIRST_ROOM: usize = 1 << 10;

/// What the kernel allows for one attribute, and for all names (xattr(7)).
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;

struct Copy<'a> {
    /// The target.
    root: BorrowedFd<'a>,
    /// The first copied name of each file with several, below the root; by
    /// device and inode.
    seen: HashMap<(u64, u64), PathBuf>,
    /// Where we are, below the root.
    path: PathBuf,
}

impl Copy<'_> {
    fn folder(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        let mut entries = Dir::read_from(from)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, name)?;
            self.path.pop();
        }
        // Last: what was done before changed the times.
        let stat = fs::fstat(from)?;
        fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        copy_attributes(&at(from, c"."), &at(to, c"."))?;
        fs::futimens(to, &times(&stat))
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::Directory {
            fs::mkdirat(to, name, Mode::RWXU)?;
            let (from, to) = (open_folder(from, name)?, open_folder(to, name)?);
            return self.folder(from.as_fd(), to.as_fd());
        }
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(copy) = self.seen.get(&identity)
        {
            match fs::linkat(self.root, copy, to, name, AtFlags::empty()) {
                // Too far down for one path, or too many names: another copy.
                Err(Errno::NAMETOOLONG | Errno::MLINK) => {}
                other => return other,
            }
        }
        match file_type {
            FileType::RegularFile => copy_file(from, to, name, &stat)?,
            FileType::Symlink => {
                fs::symlinkat(fs::readlinkat(from, name, Vec::new())?, to, name)?;
            }
            // Devices, FIFOs and sockets.
            other => fs::mknodat(to, name, other, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        fs::chownat(
            to,
            name,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if file_type != FileType::Symlink {
            // After the owner, a change of which clears some bits.
            fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        copy_attributes(&at(from, name), &at(to, name))?;
        fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_nlink > 1 {
            self.seen.insert(identity, self.path.clone());
        }
        Ok(())
    }
}

/// Copies what is in a file; holes stay holes.
fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let source = fs::openat(from, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
    if stat.st_size == 0 {
        return Ok(());
    }
    // Shares the blocks, where the filesystem can.
    if fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = stat.st_size.unsigned_abs();
    let mut at = 0;
    while at < size {
        let start = match fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // A hole up to the end.
            Err(Errno::NXIO) => break,
            // No holes here, as far as the filesystem knows.
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e),
        };
        let end = match fs::seek(&source, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::INVAL | Errno::NXIO) => size,
            Err(e) => return Err(e),
        };
        copy_range(&source, &target, start, end)?;
        at = end;
    }
    fs::ftruncate(&target, size)
}

/// Copies the bytes from `start` to `end`, or to where the file ends by now.
fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    let mut buffer = Vec::new();
    while from < end {
        let left = usize::try_from(end - from).unwrap_or(usize::MAX);
        let copied = if buffer.is_empty() {
            fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left)
        } else {
            Err(Errno::XDEV)
        };
        match copied {
            Ok(0) => return Ok(()),
            Ok(_) => continue,
            Err(Errno::INTR) => continue,
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
        buffer.resize(PIECE_BYTES, 0);
        let piece = left.min(PIECE_BYTES);
        let read = io::pread(source, &mut buffer[..piece], from)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            written += io::pwrite(target, &buffer[written..read], from + written as u64)?;
        }
        from += read as u64;
        to = from;
    }
    Ok(())
}

/// Copies the extended attributes of a file, the file of each being the last
/// part of a path. What may not be set stays behind.
fn copy_attributes(from: &CStr, to: &CStr) -> io::Result<()> {
    let mut names = Vec::new();
    match read_all(&mut names, |buffer| fs::llistxattr(from, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    }
    let mut value = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match read_all(&mut value, |buffer| fs::lgetxattr(from, name, buffer)) {
            Err(Errno::NODATA) => continue,
            other => other?,
        }
        match fs::lsetxattr(to, name, &value, XattrFlags::empty()) {
            Err(e @ (Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL)) => {
                tracing::debug!(?name, error = %e, "attribute was not copied");
            }
            other => other?,
        }
    }
    Ok(())
}

/// Reads something that says when there is not enough room for it.
fn read_all(
    into: &mut Vec<u8>,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut room = FIRST_ROOM;
    loop {
        into.resize(room, 0);
        match read(into) {
            Err(Errno::RANGE) if room < MAX_ATTRIBUTE_BYTES => room *= 8,
            Err(e) => return Err(e),
            Ok(length) => {
                into.truncate(length);
                return Ok(());
            }
        }
    }
}

fn open_folder(at: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(at, name, flags, Mode::empty())
}

/// A path to a file in an open folder (proc(5)), for calls that want one.
fn at(folder: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    // A name has no NUL byte.
    CString::new(path).unwrap_or_default()
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(std::io::Error::from)
        .context("use the path", path.display())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, Permissions, metadata, set_permissions, symlink_metadata},
        io::{Seek, SeekFrom, Write},
        os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    };

    use nix::sys::stat::{SFlag, makedev, mknod};

    use super::*;

    #[test]
    fn every_type_of_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir_all(from.join("sub/deep")).unwrap();
        std::fs::create_dir(&to).unwrap();
        let file = from.join("sub/file");
        std::fs::write(&file, "hello").unwrap();
        lchown(&file, Some(1234), Some(4321)).unwrap();
        set_permissions(&file, Permissions::from_mode(0o6750)).unwrap();
        std::fs::hard_link(&file, from.join("other name")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        lchown(from.join("link"), Some(7), Some(8)).unwrap();
        let user = nix::sys::stat::Mode::S_IRUSR;
        mknod(&from.join("null"), SFlag::S_IFCHR, user, makedev(1, 3)).unwrap();
        mknod(&from.join("fifo"), SFlag::S_IFIFO, user, 0).unwrap();
        fs::setxattr(&file, "user.note", b"kept", XattrFlags::empty()).unwrap();
        fs::setxattr(from.join("sub"), "trusted.note", b"too", XattrFlags::empty()).unwrap();
        set_permissions(from.join("sub"), Permissions::from_mode(0o1711)).unwrap();
        let mut sparse = File::create(from.join("sparse")).unwrap();
        sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
        sparse.write_all(b"end").unwrap();
        sparse.set_len(100 << 20).unwrap();
        drop(sparse);

        tree(&from, &to).unwrap();
        for name in ["", "sub", "sub/deep", "sub/file", "link", "null", "fifo", "sparse"] {
            let of = |m: std::fs::Metadata| {
                let times = (m.mtime(), m.mtime_nsec());
                (m.mode(), m.uid(), m.gid(), m.rdev(), m.len(), m.nlink(), times)
            };
            let (old, new) = (from.join(name), to.join(name));
            let (old, new) = (symlink_metadata(old).unwrap(), symlink_metadata(new).unwrap());
            if old.is_dir() {
                assert_eq!((old.mode(), old.mtime()), (new.mode(), new.mtime()), "{name}");
            } else {
                assert_eq!(of(old), of(new), "{name}");
            }
        }
        let inode = |path: &str| metadata(to.join(path)).unwrap().ino();
        assert_eq!(inode("sub/file"), inode("other name"));
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere"));
        let mut value = [0; 16];
        assert_eq!(fs::getxattr(to.join("sub/file"), "user.note", &mut value).unwrap(), 4);
        assert_eq!(fs::getxattr(to.join("sub"), "trusted.note", &mut value).unwrap(), 3);
        assert!(metadata(to.join("sparse")).unwrap().blocks() < 1000);
        let (old, new) = (std::fs::read(from.join("sparse")), std::fs::read(to.join("sparse")));
        assert!(old.unwrap() == new.unwrap());
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir_all(&from).unwrap();
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(from.join("a"), "inside").unwrap();
        symlink(folder.path().join("outside"), to.join("a")).unwrap();
        tree(&from, &to).unwrap_err();
        assert!(!folder.path().join("outside").exists());
    }
}
