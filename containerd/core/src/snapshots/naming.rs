//! What snapshotters call the snapshots of namespaces.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use shim_protocol::Id;

use crate::metadata::stored;

/// Gives out names, each once, and knows which are about to be recorded.
#[derive(Debug)]
pub(super) struct Naming {
    next: AtomicU64,
    pending: Arc<Mutex<HashSet<String>>>,
}

impl Naming {
    /// `last` is the highest number that a record has.
    ///
    /// Snapshotters may have more than is recorded, from a daemon that was
    /// killed: so counting begins at a number that none of these can have had.
    pub(super) fn new(last: u64) -> Self {
        let next = stored::from_time(SystemTime::now()).max(last + 1);
        Self { next: AtomicU64::new(next), pending: Arc::default() }
    }

    /// A name that was never used before, as containerd makes it.
    pub(super) fn name(&self, namespace: &Id, key: &str) -> Pending {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{namespace}/{number}/{key}");
        lock(&self.pending).insert(name.clone());
        Pending { name, all: self.pending.clone() }
    }

    /// Names that are about to be recorded.
    pub(super) fn pending(&self) -> HashSet<String> {
        lock(&self.pending).clone()
    }
}

/// The number in a name that [`Naming::name`] gave out.
pub(super) fn number(name: &str) -> Option<u64> {
    name.split('/').nth(1)?.parse().ok()
}

/// A name whose snapshot is being made: until this is dropped, it is no
/// leftover although no record names it.
#[derive(Debug)]
pub(super) struct Pending {
    name: String,
    all: Arc<Mutex<HashSet<String>>>,
}

impl Pending {
    pub(super) fn as_str(&self) -> &str {
        &self.name
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.name);
    }
}

fn lock(names: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    // One insertion or removal cannot be left halfway.
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
