//! Notes: the small files that daemon and shim leave in a bundle.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The most that is read of a note, in bytes.
const LIMIT: u64 = 64 * 1024;

/// Reads a note. What lies in a bundle may be anything, so this neither waits
/// for somebody to write into a FIFO nor reads without end.
///
/// # Errors
/// `InvalidData` for what is no regular file; else those of the file system.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_note_is_said_so_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let missing = folder.path().join("missing");
        assert_eq!(read(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        let long = folder.path().join("long");
        fs::write(&long, vec![b'x'; 100_000]).unwrap();
        assert_eq!(read(&long).unwrap().len(), 65_536);
    }
}
