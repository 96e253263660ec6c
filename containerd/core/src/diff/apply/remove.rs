//! Removing what a layer replaces or hides, whatever it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, fstat, openat, unlinkat},
    io::Errno,
};

use super::folder::FOLDER;

/// Removes `name` and all that is in it; answers whether it was there. Follows
/// no link. However deep it is, few descriptors are open.
pub(super) fn remove_all(folder: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e),
    }
    empty(openat(folder, name, FOLDER, rustix::fs::Mode::empty())?)?;
    unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Removes all that is in a folder.
fn empty(top: OwnedFd) -> Result<(), Errno> {
    // Names and folders on the way down from the top.
    let mut way: Vec<(Vec<u8>, (u64, u64))> = Vec::new();
    let mut current = top;
    loop {
        if let Some(name) = remove_files(&current)? {
            let here = identity(&current)?;
            let below = openat(&current, &name, FOLDER, rustix::fs::Mode::empty())?;
            way.push((name, here));
            current = below;
            continue;
        }
        let Some((name, above)) = way.pop() else { return Ok(()) };
        let up = openat(&current, "..", OFlags::NOFOLLOW | FOLDER, rustix::fs::Mode::empty())?;
        if identity(&up)? != above {
            // Somebody has moved it away while we were in it.
            return Err(Errno::STALE);
        }
        unlinkat(&up, &name, AtFlags::REMOVEDIR)?;
        current = up;
    }
}

/// Removes what is no folder; answers the name of the first folder, if there is
/// one.
fn remove_files(folder: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_owned()));
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // The filesystem tells no types.
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// What tells a folder from all others.
pub(super) fn identity(folder: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn everything_in_it_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        fs::create_dir_all(inside.join("a/b/c")).unwrap();
        fs::create_dir_all(inside.join("d")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("stays"), "").unwrap();
        for file in ["f", "a/f", "a/b/c/f"] {
            fs::write(inside.join(file), "").unwrap();
        }
        symlink(&outside, inside.join("a/link")).unwrap();
        let open = fs::File::open(folder.path()).unwrap();
        assert_eq!(remove_all(open.as_fd(), b"in"), Ok(true));
        assert_eq!(remove_all(open.as_fd(), b"in"), Ok(false));
        assert!(!inside.exists() && outside.join("stays").exists());
    }

    #[test]
    fn it_may_be_very_deep() {
        let folder = tempfile::tempdir().unwrap();
        let mut open: OwnedFd = fs::File::open(folder.path()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&open, "deep", rustix::fs::Mode::RWXU).unwrap();
            open = openat(&open, "deep", FOLDER, rustix::fs::Mode::empty()).unwrap();
        }
        let open = fs::File::open(folder.path()).unwrap();
        assert_eq!(remove_all(open.as_fd(), b"deep"), Ok(true));
    }
}
