//! What a read or a write of the database works with.

use std::{
    ops::{Bound, ControlFlow},
    sync::atomic::AtomicBool,
};

use prost::Message;
use redb::{ReadTransaction, ReadableTable, TableHandle, WriteTransaction};
use shim_protocol::{Error, ErrorKind, Result};

use super::{
    fault::OrFail,
    key::{Key, damaged},
    schema::{COLLECTED, Table},
    watch::Counts,
};

type Bytes = &'static [u8];

/// What was being done, for errors of the disk.
const ACCESS: &str = "access";

/// Reads records, from a snapshot or in the midst of a change.
pub(crate) trait Read {
    /// Opens a table.
    ///
    /// # Errors
    /// Those of the disk.
    fn table(&self, table: Table) -> Result<impl ReadableTable<Bytes, Bytes>>;

    /// To be set when the disk fails under a read.
    fn failed(&self) -> &AtomicBool;

    /// Calls `visit` with each key below `prefix` and its value, in order of
    /// keys, until it breaks.
    ///
    /// # Errors
    /// Those of `visit` and of the disk.
    fn scan(
        &self,
        table: Table,
        prefix: &Key,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let table = self.table(table)?;
        let end = prefix.end();
        let range = (Bound::Included(prefix.as_bytes()), bound(&end));
        for entry in table.range::<&[u8]>(range).or_fail(self.failed(), ACCESS)? {
            let (key, value) = entry.or_fail(self.failed(), ACCESS)?;
            if visit(key.value(), value.value())?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// Those of the disk.
    fn get_bytes(&self, table: Table, key: &Key) -> Result<Option<Vec<u8>>> {
        self.get_at(table, key.as_bytes())
    }

    /// The value at a key that was read from the database.
    ///
    /// # Errors
    /// Those of the disk.
    fn get_at(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let table = self.table(table)?;
        let value = table.get(key).or_fail(self.failed(), ACCESS)?;
        Ok(value.map(|v| v.value().to_vec()))
    }

    /// The record at `key`.
    ///
    /// # Errors
    /// `DataLoss` when there is no record in the value; those of the disk.
    fn get<M: Message + Default>(&self, table: Table, key: &Key) -> Result<Option<M>> {
        let Some(value) = self.get_bytes(table, key)? else { return Ok(None) };
        decode(key.as_bytes(), &value).map(Some)
    }

    /// Calls `visit` with each record below `prefix`.
    ///
    /// # Errors
    /// As [`Self::get`] and [`Self::scan`].
    fn each<M: Message + Default>(
        &self,
        table: Table,
        prefix: &Key,
        mut visit: impl FnMut(&[u8], M) -> Result<()>,
    ) -> Result<()> {
        self.scan(table, prefix, |key, value| {
            visit(key, decode(key, value)?)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// Those of the disk.
    fn has(&self, table: Table, key: &Key) -> Result<bool> {
        Ok(self.get_bytes(table, key)?.is_some())
    }

    /// Whether anything is below `prefix`.
    ///
    /// # Errors
    /// Those of the disk.
    fn any(&self, table: Table, prefix: &Key) -> Result<bool> {
        let mut found = false;
        self.scan(table, prefix, |_, _| {
            found = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}

fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M> {
    M::decode(value)
        .map_err(|e| Error::caused(ErrorKind::DataLoss, damaged("record", key).to_string(), e))
}

/// The database as the last commit left it.
pub(crate) struct Snapshot<'a> {
    transaction: ReadTransaction,
    failed: &'a AtomicBool,
}

impl<'a> Snapshot<'a> {
    /// `failed` is set when the disk fails under a read.
    pub(super) fn new(transaction: ReadTransaction, failed: &'a AtomicBool) -> Self {
        Self { transaction, failed }
    }
}

impl Read for Snapshot<'_> {
    fn table(&self, table: Table) -> Result<impl ReadableTable<Bytes, Bytes>> {
        self.transaction.open_table(table).or_fail(self.failed, ACCESS)
    }

    fn failed(&self) -> &AtomicBool {
        self.failed
    }
}

/// One change: a few reads and writes that become durable together or not at
/// all. Others share the transaction, so what it did can be taken back.
pub(crate) struct Change<'a> {
    transaction: &'a WriteTransaction,
    failed: &'a AtomicBool,
    /// What each write replaced, oldest first.
    before: Vec<Before>,
    /// Whether something may have been left to which nothing refers.
    deletes: bool,
    collects: bool,
}

struct Before {
    table: Table,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl<'a> Change<'a> {
    /// `failed` is set when the disk fails under it: then the transaction is
    /// lost, not only the change.
    pub(super) fn new(transaction: &'a WriteTransaction, failed: &'a AtomicBool) -> Self {
        Self { transaction, failed, before: Vec::new(), deletes: false, collects: false }
    }

    /// Writes a record, in place of the one that is there, if any.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn put(&mut self, table: Table, key: &Key, record: &impl Message) -> Result<()> {
        self.put_bytes(table, key, &record.encode_to_vec())
    }

    /// Writes a value, in place of the one that is there, if any.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn put_bytes(&mut self, table: Table, key: &Key, value: &[u8]) -> Result<()> {
        let mut open = self.transaction.open_table(table).or_fail(self.failed, ACCESS)?;
        let old = open.insert(key.as_bytes(), value).or_fail(self.failed, ACCESS)?;
        let value = old.map(|v| v.value().to_vec());
        self.before.push(Before { table, key: key.as_bytes().to_vec(), value });
        Ok(())
    }

    /// Removes the value at `key`; says whether there was one.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn remove(&mut self, table: Table, key: &Key) -> Result<bool> {
        let mut open = self.transaction.open_table(table).or_fail(self.failed, ACCESS)?;
        let old = open.remove(key.as_bytes()).or_fail(self.failed, ACCESS)?;
        let Some(old) = old else { return Ok(false) };
        let value = Some(old.value().to_vec());
        self.before.push(Before { table, key: key.as_bytes().to_vec(), value });
        self.deletes |= COLLECTED.contains(&table.name());
        Ok(true)
    }

    /// Removes everything below `prefix`.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn remove_all(&mut self, table: Table, prefix: &Key) -> Result<()> {
        let mut open = self.transaction.open_table(table).or_fail(self.failed, ACCESS)?;
        let (start, end) = (prefix.as_bytes(), prefix.end());
        let range = (Bound::Included(start), bound(&end));
        for entry in
            open.extract_from_if::<&[u8], _>(range, |_, _| true).or_fail(self.failed, ACCESS)?
        {
            let (key, value) = entry.or_fail(self.failed, ACCESS)?;
            let (key, value) = (key.value().to_vec(), Some(value.value().to_vec()));
            self.before.push(Before { table, key, value });
        }
        Ok(())
    }

    /// Notes that something may have been left to which nothing refers. That
    /// goes without saying where a record is removed that refers to others.
    pub(crate) fn note_deletion(&mut self) {
        self.deletes = true;
    }

    /// Notes that this is the work of the collector: no reason to collect again.
    pub(crate) fn note_collection(&mut self) {
        self.collects = true;
    }

    /// Counts it among others.
    pub(super) fn count(&self, counts: &mut Counts) {
        if self.is_dirty() && !self.collects {
            counts.mutations += 1;
            counts.deletions += u64::from(self.deletes);
        }
    }

    /// Tables and keys of all that it wrote or removed.
    pub(super) fn touched(&self) -> impl Iterator<Item = (String, &[u8])> {
        self.before.iter().map(|before| (before.table.name().to_owned(), before.key.as_slice()))
    }

    /// Whether it wrote anything.
    pub(super) fn is_dirty(&self) -> bool {
        !self.before.is_empty()
    }

    /// Takes back all that it wrote, newest first.
    pub(super) fn undo(self) -> Result<()> {
        for Before { table, key, value } in self.before.into_iter().rev() {
            let mut open = self.transaction.open_table(table).or_fail(self.failed, ACCESS)?;
            match value {
                Some(value) => {
                    open.insert(key.as_slice(), value.as_slice()).or_fail(self.failed, ACCESS)?;
                }
                None => {
                    open.remove(key.as_slice()).or_fail(self.failed, ACCESS)?;
                }
            }
        }
        Ok(())
    }
}

impl Read for Change<'_> {
    fn table(&self, table: Table) -> Result<impl ReadableTable<Bytes, Bytes>> {
        self.transaction.open_table(table).or_fail(self.failed, ACCESS)
    }

    fn failed(&self) -> &AtomicBool {
        self.failed
    }
}

fn bound(end: &Option<Vec<u8>>) -> Bound<&[u8]> {
    match end {
        Some(end) => Bound::Excluded(end.as_slice()),
        None => Bound::Unbounded,
    }
}
