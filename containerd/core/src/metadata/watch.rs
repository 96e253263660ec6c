//! What changes do, for those who have to know: how many there were, and which
//! records they wrote.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many changes were made since the database was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All, but for those of the collector.
    pub(crate) mutations: u64,
    /// Those that may have left something that nothing refers to.
    pub(crate) deletions: u64,
}

/// A record that was written or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Name of its table.
    pub(crate) table: String,
    /// Its key.
    pub(crate) key: Vec<u8>,
}

/// Filled by the writer.
#[derive(Debug, Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// `None` while nobody wants to know.
    touched: Option<Vec<Touched>>,
}

impl Watch {
    /// Notes the records of a change that was applied, before the next one is.
    pub(super) fn note<'a>(&self, records: impl Iterator<Item = (String, &'a [u8])>) {
        if let Some(touched) = &mut self.state().touched {
            touched.extend(records.map(|(table, key)| Touched { table, key: key.to_vec() }));
        }
    }

    /// Counts changes that are durable now.
    pub(super) fn count(&self, new: Counts) {
        if new == Counts::default() {
            return;
        }
        let counts = &mut self.state().counts;
        counts.mutations += new.mutations;
        counts.deletions += new.deletions;
        self.changed.notify_waiters();
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Waits until there were other changes than `seen`.
    pub(super) async fn changed(&self, seen: Counts) -> Counts {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on none is missed.
            changed.as_mut().enable();
            let counts = self.counts();
            if counts != seen {
                return counts;
            }
            changed.await;
        }
    }

    /// Notes from now on. One at a time can do this.
    pub(super) fn begin(&self) {
        self.state().touched = Some(Vec::new());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is changed in one step each, so a panic leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Knows which records are written. Ends when it is dropped.
pub(crate) struct Watching(pub(super) Arc<Watch>);

impl Watching {
    /// What was written since the last call. Inside a change, this is all that
    /// it can see, and that a reader before this was made could not.
    pub(crate) fn take(&self) -> Vec<Touched> {
        self.0.state().touched.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.state().touched = None;
    }
}
