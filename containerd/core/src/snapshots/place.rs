//! Where snapshots are changed.

use shim_protocol::{Error, Id, Result};

use crate::{
    leases::{self, Resource},
    metadata::Change,
};

/// Where snapshots are changed, and on whose behalf.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) namespace: Id,
    pub(super) snapshotter: String,
    pub(super) lease: Option<String>,
}

impl Place {
    pub(super) fn new(namespace: &Id, snapshotter: &str, lease: Option<&str>) -> Self {
        Self {
            namespace: namespace.clone(),
            snapshotter: snapshotter.to_owned(),
            lease: lease.map(str::to_owned),
        }
    }

    /// The error for a key that must be free.
    pub(super) fn taken(&self, key: &str) -> Error {
        Error::already_exists(format!("snapshot {key:?} in namespace {:?}", self.namespace))
    }

    /// Lets the lease, if there is one, hold a snapshot.
    pub(super) fn hold(&self, change: &mut Change<'_>, key: &str) -> Result<()> {
        match &self.lease {
            Some(lease) => leases::hold(change, &self.namespace, lease, &self.held(key)),
            None => Ok(()),
        }
    }

    /// As [`Self::hold`], but a lease that is gone is none.
    pub(super) fn hold_if_there(&self, change: &mut Change<'_>, key: &str) -> Result<()> {
        match self.hold(change, key) {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Lets the lease, if there is one, let go of a snapshot.
    pub(super) fn let_go(&self, change: &mut Change<'_>, key: &str) -> Result<()> {
        match &self.lease {
            Some(lease) => leases::let_go(change, &self.namespace, lease, &self.held(key)),
            None => Ok(()),
        }
    }

    fn held(&self, key: &str) -> Resource {
        Resource { id: key.to_owned(), kind: format!("snapshots/{}", self.snapshotter) }
    }
}
