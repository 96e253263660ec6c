//! Makes a new database, and takes an older one to today's schema.

use redb::{Database, ReadableTable, WriteTransaction};
use shim_protocol::{Error, ErrorKind, Result};

use super::{
    fault::Fault,
    key::{Key, damaged},
    schema::{META, META_VERSION, TABLES, VERSION},
};

/// Brings `database` to [`VERSION`], in one transaction.
///
/// # Errors
/// `FailedPrecondition` when a newer program wrote it; `DataLoss` when its
/// version cannot be read; those of the disk.
pub(super) fn migrate(database: &Database) -> Result<()> {
    let transaction = database.begin_write().map_err(|e| Fault::from(e).during("open"))?;
    match version(&transaction)? {
        Some(VERSION) => transaction.abort().map_err(|e| Fault::from(e).during("open")),
        // Each version has a few tables more than the one before.
        Some(1 | 2) | None => {
            create(&transaction).map_err(|e| e.during("create"))?;
            transaction.commit().map_err(|e| Fault::from(e).during("create"))
        }
        Some(newer) => Err(Error::precondition(format!(
            "the metadata database has schema version {newer}, this program knows {VERSION}: \
             a newer one has been here"
        ))),
    }
}

/// The schema's version; `None` in a new file.
fn version(transaction: &WriteTransaction) -> Result<Option<u64>> {
    let key = Key::new(&[META_VERSION])?;
    let read = || -> Result<Option<Vec<u8>>, Fault> {
        let meta = transaction.open_table(META)?;
        Ok(meta.get(key.as_bytes())?.map(|v| v.value().to_vec()))
    };
    let Some(bytes) = read().map_err(|e| e.during("read the version of"))? else { return Ok(None) };
    match bytes.try_into() {
        Ok(bytes) => Ok(Some(u64::from_le_bytes(bytes))),
        Err(_) => Err(damaged("version", key.as_bytes()).with_kind(ErrorKind::DataLoss)),
    }
}

fn create(transaction: &WriteTransaction) -> Result<(), Fault> {
    for table in TABLES {
        transaction.open_table(table)?;
    }
    let mut meta = transaction.open_table(META)?;
    meta.insert(format!("{META_VERSION}\0").as_bytes(), VERSION.to_le_bytes().as_slice())?;
    Ok(())
}
