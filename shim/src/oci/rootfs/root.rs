//! A container's root filesystem, seen from outside: whatever its links say, no
//! path in it leads out of it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2,
        readlinkat, statat,
    },
    io::Errno,
};

/// As many links as the kernel follows (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// How often a walk begins anew that was disturbed by a rename.
const MAX_TRIES: usize = 64;
/// Mode of folders that are made on the way.
pub(super) const FOLDER: Mode = Mode::from_raw_mode(0o755);
/// Mode of files that are made to be mounted on.
const FILE: Mode = Mode::from_raw_mode(0o644);

/// The folder that will be the root.
#[derive(Debug)]
pub(in crate::oci) struct Root(OwnedFd);

/// What is made where nothing is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Folder,
    File,
}

impl Root {
    /// # Errors
    /// Those of open(2).
    pub(in crate::oci) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What is at a path, with whatever is mounted there.
    ///
    /// # Errors
    /// `NotFound`, and others of openat2(2).
    pub(in crate::oci) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlags::empty(), ResolveFlags::empty())?)
    }

    /// The same of a folder, on a way without links.
    ///
    /// # Errors
    /// Those of openat2(2); `ELOOP` for a link, `ENOTDIR` for what is no folder.
    pub(super) fn open_plain(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?)
    }

    /// A folder, made with those above it if it is not there.
    ///
    /// # Errors
    /// Those of the file system; `ENOTDIR` when something else is there.
    pub(in crate::oci) fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlags::DIRECTORY, ResolveFlags::empty()) {
            Err(Errno::NOENT) => self.make(path, Make::Folder),
            found => Ok(found?),
        }
    }

    /// Something that is no folder, made as an empty file if it is not there.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlags::empty(), ResolveFlags::empty()) {
            Err(Errno::NOENT) => self.make(path, Make::File),
            found => Ok(found?),
        }
    }

    /// The folder above a path, made if it is not there, and the name in it.
    ///
    /// # Errors
    /// As [`Root::folder`]; `InvalidInput` for a path that ends in no name.
    pub(super) fn above<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.folder(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn resolve(
        &self,
        path: &Path,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        for _ in 0..MAX_TRIES {
            match openat2(&self.0, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Walks a path of which a part is missing, and makes that. The kernel walks
    /// only what is there, so links are followed here; each step alone is the
    /// kernel's, and stays inside even if somebody changes the tree meanwhile.
    fn make(&self, path: &Path, last: Make) -> io::Result<OwnedFd> {
        // Where we are, without links; and what is still to go, backwards.
        let mut done = PathBuf::new();
        let mut ahead = parts(path);
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let here = self.resolve(&done, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
            match statat(&here, &part, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = os(readlinkat(&here, &part, Vec::new())?);
                    if Path::new(&target).is_absolute() {
                        done.clear();
                    }
                    ahead.extend(parts(Path::new(&target)));
                }
                Ok(_) => done.push(part),
                Err(Errno::NOENT) => {
                    let made = match last {
                        Make::File if ahead.is_empty() => {
                            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                            openat(&here, &part, flags | OFlags::CLOEXEC, FILE).map(drop)
                        }
                        _ => mkdirat(&here, &part, FOLDER),
                    };
                    match made {
                        // Somebody else was faster.
                        Err(Errno::EXIST) => {}
                        made => made?,
                    }
                    done.push(part);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let flags = if last == Make::Folder { OFlags::DIRECTORY } else { OFlags::empty() };
        Ok(self.resolve(&done, flags, ResolveFlags::empty())?)
    }
}

fn os(text: std::ffi::CString) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(text.into_bytes())
}

/// The names in a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    parts.collect()
}

/// Whatever is at a path of this process.
///
/// # Errors
/// Those of open(2).
pub(super) fn here(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn name(fd: &OwnedFd) -> PathBuf {
        use std::os::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        let outer = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(outer.path()).unwrap();
        let inner = base.join("root");
        fs::create_dir_all(inner.join("a")).unwrap();
        for (link, target) in
            [("up", "../../.."), ("abs", "/new/place"), ("a/rel", "../b/c"), ("loop", "loop")]
        {
            symlink(target, inner.join(link)).unwrap();
        }
        let root = Root::at(&inner).unwrap();
        for (path, made) in [
            ("/x/y", "x/y"),
            ("/x/../../z", "z"),
            ("/up/out", "out"),
            ("/abs/d", "new/place/d"),
            ("/a/rel/e", "b/c/e"),
            ("/", ""),
        ] {
            assert_eq!(name(&root.folder(Path::new(path)).unwrap()), inner.join(made), "{path}");
            assert!(inner.join(made).is_dir());
        }
        assert_eq!(name(&root.file(Path::new("/abs/f")).unwrap()), inner.join("new/place/f"));
        assert!(inner.join("new/place/f").is_file());
        // A link to what is not there is made where it points to, too.
        symlink("/later/file", inner.join("dangling")).unwrap();
        assert_eq!(name(&root.file(Path::new("/dangling")).unwrap()), inner.join("later/file"));
        assert_eq!(root.folder(Path::new("/loop/x")).unwrap_err().raw_os_error(), Some(40));
        let file = root.folder(Path::new("/abs/f/under")).unwrap_err();
        assert_eq!(file.raw_os_error(), Some(nix::libc::ENOTDIR));
        let linked = root.open_plain(Path::new("/abs")).unwrap_err();
        assert_eq!(linked.raw_os_error(), Some(nix::libc::ELOOP));
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "something is outside");
    }
}
