//! The one thread that writes: changes that wait at the same time share a
//! transaction, and so one wait for the disk.
//!
//! ```text
//! callers ──▶ queue ──▶ transaction: change, change, change … ──▶ commit ──▶ answers
//!                        a refused change is taken back by itself
//! ```
//!
//! While a commit waits for the disk, the next changes queue up behind it: so
//! the busier the daemon, the larger the groups. Nobody waits for company.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use redb::Database;
use shim_protocol::{Error, Result};
use tokio::sync::mpsc;

use super::{
    fault::OrFail,
    store::Store,
    transaction::Change,
    watch::{Counts, Watch},
};

/// Changes that share a transaction at most: bounds how long the first waits
/// for the last, and the memory of pages that are not on disk yet.
const GROUP_LIMIT: usize = 256;

/// A change on its way through the queue.
pub(super) trait Job: Send {
    /// Does the reads and writes; on an error, what it wrote is taken back.
    fn apply(&mut self, change: &mut Change<'_>) -> Result<()>;

    /// Answers the caller, after the commit or in its place. On the writer's
    /// thread, in the order of changes.
    fn finish(self: Box<Self>, outcome: Result<()>);
}

/// A change whose caller wants a value out of it.
pub(super) struct Pending<F, T, D> {
    change: Option<F>,
    value: Option<T>,
    done: D,
}

impl<F, T, D> Pending<F, T, D> {
    pub(super) fn new(change: F, done: D) -> Self {
        Self { change: Some(change), value: None, done }
    }
}

impl<F, T, D> Job for Pending<F, T, D>
where
    F: FnOnce(&mut Change<'_>) -> Result<T> + Send,
    T: Send,
    D: FnOnce(Result<T>) + Send,
{
    fn apply(&mut self, change: &mut Change<'_>) -> Result<()> {
        if let Some(apply) = self.change.take() {
            self.value = Some(apply(change)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<()>) {
        let Self { value, done, .. } = *self;
        done(outcome.and_then(|()| {
            value.ok_or_else(|| Error::internal("change of metadata was not applied"))
        }));
    }
}

/// Writes until the queue is closed and empty.
pub(super) fn run(store: &Arc<Store>, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut group = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < GROUP_LIMIT
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        write_group(store, std::mem::take(&mut group));
    }
}

fn write_group(store: &Store, mut group: Vec<Box<dyn Job>>) {
    match store.with(|database, failed| transact(database, failed, store.watch(), &mut group)) {
        Ok(outcomes) => {
            for (job, outcome) in group.into_iter().zip(outcomes) {
                job.finish(outcome);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for job in group {
                let action = "write metadata";
                job.finish(Err(Error::caused(error.kind(), action, error.clone())));
            }
        }
    }
}

/// Applies all changes and commits them; answers what became of each. An
/// error is one of the disk: then none is in the file, or, if it came from
/// the commit itself, all may be.
fn transact(
    database: &Database,
    failed: &AtomicBool,
    watch: &Watch,
    group: &mut [Box<dyn Job>],
) -> Result<Vec<Result<()>>> {
    let transaction = database.begin_write().or_fail(failed, "write")?;
    let mut outcomes = Vec::with_capacity(group.len());
    let mut dirty = false;
    let mut counts = Counts::default();
    for job in group {
        let mut change = Change::new(&transaction, failed);
        let outcome = job.apply(&mut change);
        if failed.load(Ordering::Acquire) {
            // Dropped, the transaction leaves no trace.
            outcome?;
            return Err(Error::unavailable("the disk of the metadata database failed"));
        }
        match outcome {
            Ok(()) => {
                dirty |= change.is_dirty();
                change.count(&mut counts);
                watch.note(change.touched());
            }
            Err(_) => change.undo()?,
        }
        outcomes.push(outcome);
    }
    if dirty {
        transaction.commit().or_fail(failed, "commit")?;
        watch.count(counts);
    } else {
        transaction.abort().or_fail(failed, "write")?;
    }
    Ok(outcomes)
}
