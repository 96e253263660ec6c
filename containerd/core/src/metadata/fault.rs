//! From redb's errors to ours.

use std::sync::atomic::{AtomicBool, Ordering};

use shim_protocol::{Error, ErrorKind, Result, error::io_kind};

/// An error of the database, before it is said what was being done.
#[derive(Debug)]
pub(super) struct Fault(redb::Error);

impl Fault {
    /// The error for a caller, under what was being done.
    pub(super) fn during(self, action: &str) -> Error {
        let kind = match &self.0 {
            redb::Error::Io(e) => io_kind(e),
            redb::Error::Corrupted(_) => ErrorKind::DataLoss,
            // The disk failed under somebody else; the next call opens the file again.
            redb::Error::PreviousIo => ErrorKind::Unavailable,
            redb::Error::DatabaseAlreadyOpen => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Internal,
        };
        Error::caused(kind, format!("{action} the metadata database"), self.0)
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Notes that the disk failed, besides making the error ours.
pub(super) trait OrFail<T> {
    /// Sets `failed` on an error, and says what was being done.
    fn or_fail(self, failed: &AtomicBool, action: &str) -> Result<T>;
}

impl<T, E: Into<redb::Error>> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, failed: &AtomicBool, action: &str) -> Result<T> {
        self.map_err(|e| {
            failed.store(true, Ordering::Release);
            Fault::from(e).during(action)
        })
    }
}
