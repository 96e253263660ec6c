//! Exit records: how each process of a task ended, kept in the bundle so that
//! it survives the shim.
//!
//! ```text
//! <bundle>/exits/init            the container's init process
//!                exec.<exec id>  a process added by exec
//! ```
//!
//! Each file is a [`note`] of one JSON object, see [`ExitRecord`]. The shim
//! writes it as soon as the process has been reaped, before the exit is
//! announced.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{Context, Error, ErrorKind, Id, Result, note};

/// Folder of the records inside a bundle.
pub const FOLDER: &str = "exits";

const INIT: &str = "init";
const EXEC_PREFIX: &str = "exec.";

/// How one process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// The exec that the process belongs to; `None` is the container's init.
    pub exec_id: Option<Id>,
    /// Its pid in the host's pid namespace.
    pub pid: u32,
    /// Exit code, or 128 plus the number of the signal that ended it.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

/// What is in the file. The exec id is the file's name.
#[derive(Serialize, Deserialize)]
struct Document {
    pid: u32,
    status: u32,
    /// Time since the Unix epoch.
    seconds: u64,
    nanos: u32,
}

/// Writes one record, over an older one of the same process.
///
/// # Errors
/// When the bundle's file system does; `ResourceExhausted` when it is full.
pub fn write(bundle: &Path, record: &ExitRecord) -> Result<()> {
    let since = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let document = Document {
        pid: record.pid,
        status: record.status,
        seconds: since.as_secs(),
        nanos: since.subsec_nanos(),
    };
    let path = path(bundle, record.exec_id.as_ref());
    let text = serde_json::to_vec(&document)
        .map_err(|e| Error::caused(ErrorKind::Internal, format!("encode {}", path.display()), e))?;
    let folder = bundle.join(FOLDER);
    match fs::create_dir(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).context("make", folder.display());
        }
        _ => {}
    }
    note::write(&path, &text)
}

/// Reads the record of one process; `None` when it has not ended, or when its
/// shim keeps no records.
///
/// # Errors
/// `DataLoss` when the file is not a record.
pub fn read(bundle: &Path, exec_id: Option<&Id>) -> Result<Option<ExitRecord>> {
    let path = path(bundle, exec_id);
    let Some(text) = note::read(&path)? else { return Ok(None) };
    let document: Document = serde_json::from_slice(&text)
        .map_err(|e| Error::caused(ErrorKind::DataLoss, format!("decode {}", path.display()), e))?;
    let at = UNIX_EPOCH
        .checked_add(Duration::new(document.seconds, document.nanos.min(999_999_999)))
        .ok_or_else(|| {
            Error::new(ErrorKind::DataLoss, format!("time out of range in {}", path.display()))
        })?;
    Ok(Some(ExitRecord {
        exec_id: exec_id.cloned(),
        pid: document.pid,
        status: document.status,
        at,
    }))
}

/// Reads all records of a bundle in the order in which exits are announced:
/// execs by time, then init.
///
/// # Errors
/// As [`read`]; other files in the folder are skipped.
pub fn read_all(bundle: &Path) -> Result<Vec<ExitRecord>> {
    let folder = bundle.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context("list", folder.display()),
    };
    let mut records = Vec::new();
    for entry in entries {
        let name = entry.context("list", folder.display())?.file_name();
        let exec_id = name
            .to_str()
            .and_then(|name| name.strip_prefix(EXEC_PREFIX))
            .and_then(|id| Id::new("exec id", id).ok());
        if let Some(exec_id) = exec_id {
            records.extend(read(bundle, Some(&exec_id))?);
        }
    }
    records.sort_by_key(|record| record.at);
    records.extend(read(bundle, None)?);
    Ok(records)
}

/// Removes the record of one process, so that an exec id can be used again.
/// A record that is not there is success.
///
/// # Errors
/// When the bundle's file system does.
pub fn remove(bundle: &Path, exec_id: Option<&Id>) -> Result<()> {
    note::remove(&path(bundle, exec_id))
}

fn path(bundle: &Path, exec_id: Option<&Id>) -> PathBuf {
    let folder = bundle.join(FOLDER);
    match exec_id {
        None => folder.join(INIT),
        Some(id) => folder.join(format!("{EXEC_PREFIX}{id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(exec: Option<&str>, seconds: u64) -> ExitRecord {
        ExitRecord {
            exec_id: exec.map(|id| Id::new("exec id", id).unwrap()),
            pid: 42,
            status: 137,
            at: UNIX_EPOCH + Duration::new(seconds, 5),
        }
    }

    #[test]
    fn a_record_comes_back_whole() {
        let bundle = tempfile::tempdir().unwrap();
        for record in [record(None, 10), record(Some("init"), 11)] {
            write(bundle.path(), &record).unwrap();
            assert_eq!(
                read(bundle.path(), record.exec_id.as_ref()).unwrap().as_ref(),
                Some(&record)
            );
        }
    }

    #[test]
    fn a_later_record_replaces_an_earlier_one() {
        let bundle = tempfile::tempdir().unwrap();
        write(bundle.path(), &record(None, 10)).unwrap();
        write(bundle.path(), &record(None, 20)).unwrap();
        assert_eq!(read_all(bundle.path()).unwrap(), [record(None, 20)]);
    }

    #[test]
    fn all_records_are_in_the_order_of_announcement() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(read_all(bundle.path()).unwrap(), []);
        let (init, early, late) =
            (record(None, 1), record(Some("z.early"), 2), record(Some("late"), 3));
        for record in [&late, &init, &early] {
            write(bundle.path(), record).unwrap();
        }
        fs::write(bundle.path().join(FOLDER).join(".exec.torn~"), "{").unwrap();
        assert_eq!(read_all(bundle.path()).unwrap(), [early, late, init]);
    }

    #[test]
    fn removing_twice_is_fine() {
        let bundle = tempfile::tempdir().unwrap();
        let exec = record(Some("e"), 1);
        write(bundle.path(), &exec).unwrap();
        remove(bundle.path(), exec.exec_id.as_ref()).unwrap();
        remove(bundle.path(), exec.exec_id.as_ref()).unwrap();
        assert_eq!(read(bundle.path(), exec.exec_id.as_ref()).unwrap(), None);
    }

    #[test]
    fn garbage_is_data_loss_and_names_the_file() {
        let bundle = tempfile::tempdir().unwrap();
        fs::create_dir(bundle.path().join(FOLDER)).unwrap();
        fs::write(bundle.path().join(FOLDER).join(INIT), "nonsense").unwrap();
        let error = read(bundle.path(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.to_string().ends_with("exits/init"), "{error}");
    }
}
