//! The file of the database, with its space reserved.

use std::{fs::File, io, ops::Bound};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

/// A file whose blocks are allocated when it grows. On a full disk, growing
/// fails then, and what is in the file stays readable: a file with holes would
/// fail in the midst of a write, and again when it is repaired.
///
/// Changes go on as long as the file has free pages. Without any, removing
/// fails too, since a copy of each changed page is written first: room has to
/// come from elsewhere on the disk.
#[derive(Debug)]
pub(super) struct ReservedFile {
    backend: FileBackend,
    /// The same open file, for what the backend does not offer.
    file: File,
}

impl ReservedFile {
    /// # Errors
    /// `Io` when the descriptor cannot be duplicated.
    pub(super) fn new(file: File) -> Result<Self, DatabaseError> {
        let same = file.try_clone().map_err(redb::StorageError::Io)?;
        Ok(Self { backend: FileBackend::new(file)?, file: same })
    }

    /// Allocates the first `len` bytes, if the filesystem can do that at all.
    fn reserve(&self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(()),
                outcome => return Ok(outcome?),
            }
        }
    }
}

impl StorageBackend for ReservedFile {
    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.backend.len()? {
            self.reserve(len)?;
        }
        self.backend.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_that_grew_has_all_its_blocks() {
        let file = tempfile::tempfile().unwrap();
        let reserved = ReservedFile::new(file.try_clone().unwrap()).unwrap();
        for len in [1 << 20, 3 << 20, 1 << 20] {
            reserved.set_len(len).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.len(), len);
            assert!(metadata.blocks() * 512 >= len, "{} blocks", metadata.blocks());
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        let reserved = ReservedFile::new(tempfile::tempfile().unwrap()).unwrap();
        assert_eq!(reserved.set_len(u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(reserved.len().unwrap(), 0);
    }
}
