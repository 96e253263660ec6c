//! How far subscribers were served: for those that come back after a restart
//! and cannot say what they have seen.
//!
//! ```text
//! <folder>/delivered   timestamp, u64 nanoseconds, little-endian
//! ```
//!
//! Events that the daemon had journaled but given to no subscriber when it was
//! killed are told again after boot, with what was published since. It is one
//! write of eight bytes to the page cache, which is whole or not done.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use shim_protocol::{Context, Result};
use tracing::warn;

use super::Timestamp;

/// The timestamp of the latest event that a subscriber has taken.
#[derive(Debug)]
pub(super) struct Delivered {
    file: File,
    at: Timestamp,
    failing: bool,
}

impl Delivered {
    /// Reads what an earlier daemon has noted; nothing noted is zero.
    ///
    /// # Errors
    /// When the file cannot be made or read.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("delivered");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).context("open", path.display())?;
        let mut bytes = [0; 8];
        let length = file.read_at(&mut bytes, 0).context("read", path.display())?;
        let nanos = if length == bytes.len() { u64::from_le_bytes(bytes) } else { 0 };
        Ok(Self { file, at: Timestamp::from_nanos(nanos), failing: false })
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    /// Notes that all events up to `at` were taken.
    pub(super) fn advance(&mut self, at: Timestamp) {
        if at <= self.at {
            return;
        }
        self.at = at;
        let written = self.file.write_all_at(&at.as_nanos().to_le_bytes(), 0);
        // Without the note some events may be told twice after a restart.
        if let Err(error) = &written
            && !self.failing
        {
            warn!(%error, "how far events were delivered is not kept now");
        }
        self.failing = written.is_err();
    }
}
