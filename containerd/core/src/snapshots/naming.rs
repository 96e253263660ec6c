//! What snapshotters call the snapshots of namespaces.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use shim_protocol::Id;

use crate::metadata::stored;

/// Gives out names, each once.
#[derive(Debug)]
pub(super) struct Naming(AtomicU64);

impl Naming {
    /// `last` is the highest number that a record has.
    ///
    /// Snapshotters may have more than is recorded, from a daemon that was
    /// killed: so counting begins at a number that none of these can have had.
    pub(super) fn new(last: u64) -> Self {
        let next = stored::from_time(SystemTime::now()).max(last + 1);
        Self(AtomicU64::new(next))
    }

    /// A name that was never used before, as containerd makes it.
    pub(super) fn name(&self, namespace: &Id, key: &str) -> String {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        format!("{namespace}/{number}/{key}")
    }
}

/// The number in a name that [`Naming::name`] gave out.
pub(super) fn number(name: &str) -> Option<u64> {
    name.split('/').nth(1)?.parse().ok()
}
