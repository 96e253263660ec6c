//! Files that the kernel makes while they are read, as those of `/proc` and of
//! control groups.

use std::{fs::File, io, io::Read, path::Path};

/// More than most of them have, in bytes. They do not tell how long they are, and
/// to try that out costs a call for each try.
const USUAL_BYTES: usize = 4096;

/// Reads such a file.
///
/// # Errors
/// Those of the file system.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(USUAL_BYTES);
    // A file by itself would be asked for its length.
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_files_are_read_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, USUAL_BYTES - 1, USUAL_BYTES, 3 * USUAL_BYTES + 1] {
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
        assert!(read("/proc/self/stat").unwrap().ends_with('\n'));
    }
}
