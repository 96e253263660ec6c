//! Notes: the small files that daemon and shim leave in a bundle.
//!
//! What lies in a bundle may be anything, so reading neither waits for somebody
//! to write into a FIFO nor goes on without end. A note appears whole or not at
//! all: half of one would keep whoever cleans up from doing so. It is not
//! synced, because a crash of the host ends every container anyway.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{Context, Result};

/// The most that is read of a note, in bytes.
const LIMIT: u64 = 64 * 1024;

/// Reads a note; `None` when there is none.
///
/// # Errors
/// `DataLoss` for what is no regular file; else those of the file system.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let read = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let mut content = Vec::new();
        file.take(LIMIT).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("read", path.display()),
    }
}

/// Writes a note, over an older one. It is written aside, as `.<name>~`, and
/// renamed.
///
/// # Errors
/// Those of the file system; `ResourceExhausted` when it is full.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let aside = unfinished(path);
    let written = fs::write(&aside, content).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // The first error says more, and the rest goes with the bundle.
        let _ = fs::remove_file(&aside);
    }
    written.context("write", path.display())
}

/// Where a note is written before it appears: who is killed meanwhile leaves it
/// there.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push("~");
    path.with_file_name(name)
}

/// Removes a note; one that is gone is success.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).context("remove", path.display()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_note_is_written_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        assert_eq!(read(&path).unwrap(), None);
        for content in ["first", "second"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), Some(content.as_bytes()));
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_note_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        fs::create_dir(&path).unwrap();
        let error = write(&path, b"content").unwrap_err();
        assert!(error.to_string().ends_with("note"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_note_is_said_so_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap_err().kind(), ErrorKind::DataLoss);
        let long = folder.path().join("long");
        fs::write(&long, vec![b'x'; 100_000]).unwrap();
        assert_eq!(read(&long).unwrap().unwrap().len(), 65_536);
    }
}
