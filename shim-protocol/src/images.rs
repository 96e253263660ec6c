//! Folders that checkpoints are written to. A shim has the lock of one as long as
//! it writes there, or waits to: a daemon that finds the folder, and knows nothing
//! of it, removes it only with that lock. Go's shims take none.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Locks a folder until what this gives is dropped; `None` if somebody else has
/// the lock. Neither a link nor what is no folder is opened, or waited for.
///
/// # Errors
/// Those of open(2) and flock(2): not every filesystem has locks.
pub fn lock(folder: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_lock_and_nothing_else_has_any() {
        let base = tempfile::tempdir().unwrap();
        let held = lock(base.path()).unwrap();
        assert!(held.is_some() && lock(base.path()).unwrap().is_none());
        drop(held);
        assert!(lock(base.path()).unwrap().is_some());
        let (file, link) = (base.path().join("file"), base.path().join("link"));
        File::create(&file).unwrap();
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        for path in [file, link, base.path().join("missing")] {
            lock(&path).unwrap_err();
        }
    }
}
