//! The open file, and opening it again.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use redb::{Database, ReadableDatabase};
use shim_protocol::Result;

use super::{fault::OrFail, transaction::Snapshot, watch::Watch};

/// Opens the database file, for the first time or again.
pub(super) type Open = Box<dyn Fn() -> Result<Database> + Send + Sync>;

/// The database, however often its disk fails.
///
/// redb refuses everything once a write has failed, for instance on a full
/// disk. What it had committed is safe in the file, so the next caller opens
/// that again.
pub(super) struct Store {
    open: Open,
    /// `None` once it is closed, or while it could not be opened again. Only opening locks it
    /// for writing; readers and the writer of records share it.
    database: RwLock<Option<Database>>,
    failed: AtomicBool,
    watch: Arc<Watch>,
}

impl Store {
    /// Opens the file.
    ///
    /// # Errors
    /// Those of `open`.
    pub(super) fn new(open: Open) -> Result<Self> {
        let database = RwLock::new(Some(open()?));
        Ok(Self { open, database, failed: AtomicBool::new(false), watch: Arc::default() })
    }

    /// Calls `read` with the state after the last commit.
    ///
    /// # Errors
    /// Those of `read` and of the disk.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Snapshot<'_>) -> Result<T>) -> Result<T> {
        self.with(|database, failed| {
            let transaction = database.begin_read().or_fail(failed, "read")?;
            read(&Snapshot::new(transaction, failed))
        })
    }

    /// Calls `work` with the open database and the flag to set if it fails.
    ///
    /// # Errors
    /// Those of `work` and of opening the file again.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database, &AtomicBool) -> Result<T>,
    ) -> Result<T> {
        if self.failed.load(Ordering::Acquire) {
            self.open_again()?;
        }
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match &*guard {
            Some(database) => work(database, &self.failed),
            None => Err(shim_protocol::Error::unavailable("metadata database is closed")),
        }
    }

    /// What its writer did.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Closes the file, once nobody works with it any more.
    pub(super) fn close(&self) {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(guard.take());
        self.failed.store(false, Ordering::Release);
    }

    fn open_again(&self) -> Result<()> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Another caller may have done it meanwhile.
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        // Closed first: two open ones would lock each other out.
        drop(guard.take());
        *guard = Some((self.open)()?);
        self.failed.store(false, Ordering::Release);
        tracing::warn!("opened the metadata database again after a failure of its disk");
        Ok(())
    }
}
