//! Removing a container.

use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::{Record, Store, hooks};
use crate::runtime::Status;

/// Removes a container that has ended, or was never started. With `force` its
/// processes are killed first, and a container that is not there is fine.
/// Hooks that come after that are run by the calling process.
///
/// # Errors
/// `FailedPrecondition` when it runs and `force` is not given.
pub(crate) fn delete(store: &Store, id: &Id, force: bool) -> Result<()> {
    delete_read(store, id, store.read(id), force)
}

/// [`delete`] with what was read of the container's record.
///
/// # Errors
/// As that.
pub(crate) fn delete_read(
    store: &Store,
    id: &Id,
    record: Result<Record>,
    force: bool,
) -> Result<()> {
    let record = match record {
        Ok(record) => record,
        // Its maker died before it had a record, and so before it had anything else.
        Err(e) if e.is_not_found() && store.is_ours(id) == Some(true) => return store.remove(id),
        Err(e) if e.is_not_found() && force => return Ok(()),
        // Garbage must not keep a name taken for ever, but says nothing of groups.
        Err(e) if e.kind() == ErrorKind::DataLoss && force => {
            tracing::warn!(container = %id, error = %e.report(), "remove without its groups");
            return store.remove(id);
        }
        Err(e) => return Err(e),
    };
    let status = record.status(store, id)?;
    if !force && !matches!(status, Status::Stopped | Status::Created) {
        return Err(Error::precondition(format!("delete container {id}: it is {status}")));
    }
    // Also processes that outlive init because they share a pid namespace.
    record.groups.empty().context("end container", id)?;
    record.groups.remove().context("remove container", id)?;
    hooks::after(store, id, &record);
    store.remove(id)
}
