//! Ends of processes that the keeper is at: from when it hears of one until
//! what the process has left is taken away, which waits for its output.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use shim_protocol::Id;
use tokio::sync::watch;

use super::lock;
use crate::events::{Happening, Timestamp};

/// The ends of a daemon.
#[derive(Debug, Default)]
pub(super) struct Ends {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The keeper has heard of all that was published up to then.
    heard: Timestamp,
    /// By container, and when it was published.
    under_way: BTreeMap<(Id, Timestamp), Happening>,
}

/// The keeper is at it until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    ends: Arc<Ends>,
    key: (Id, Timestamp),
}

impl Ends {
    /// An end was heard of that was published at `at`.
    pub(super) fn begin(self: &Arc<Self>, id: &Id, at: Timestamp, end: Happening) -> UnderWay {
        let key = (id.clone(), at);
        // Nobody waits for a begin.
        let mut state = self.state();
        state.under_way.insert(key.clone(), end);
        state.heard = state.heard.max(at);
        drop(state);
        UnderWay { ends: self.clone(), key }
    }

    /// Whatever was published up to `at` was heard, or will not be.
    pub(super) fn heard(&self, at: Timestamp) {
        {
            let mut state = self.state();
            state.heard = state.heard.max(at);
        }
        self.changed.send_replace(());
    }

    /// Is the keeper done with the end of a container's process that was
    /// published at `at`?
    pub(super) fn is_over(&self, id: &Id, at: Timestamp) -> bool {
        let state = self.state();
        state.heard >= at && !state.under_way.contains_key(&(id.clone(), at))
    }

    /// Those under way that were published up to `at`, in order.
    pub(super) fn until(&self, at: Timestamp) -> Vec<(Id, Timestamp, Happening)> {
        let state = self.state();
        let mut ends: Vec<_> = state
            .under_way
            .iter()
            .filter(|((_, published), _)| *published <= at)
            .map(|((id, at), end)| (id.clone(), *at, end.clone()))
            .collect();
        ends.sort_by_key(|(_, at, _)| *at);
        ends
    }

    /// Waits until none of a container's added processes is under way.
    pub(super) async fn execs_over(&self, id: &Id) {
        let mut changes = self.changes();
        while self.has_execs(id) {
            // An error would mean that the sender is gone, but it is in `self`.
            let _ = changes.changed().await;
        }
    }

    /// Tells when anything has changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn has_execs(&self, id: &Id) -> bool {
        let state = self.state();
        let from = (id.clone(), Timestamp::ZERO);
        let mut all = state.under_way.range(from..).take_while(|((of, _), _)| of == id);
        all.any(|(_, end)| matches!(end, Happening::ExecEnded { .. }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.ends.state().under_way.remove(&self.key);
        self.ends.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use futures::FutureExt;

    use super::*;
    use crate::events::Ending;

    fn end(exec: Option<&str>) -> Happening {
        let ending = Ending { pid: 7, status: 0, at: UNIX_EPOCH };
        match exec.map(|exec| Id::new("exec", exec).unwrap()) {
            Some(exec) => Happening::ExecEnded { exec, ending },
            None => Happening::Ended(ending),
        }
    }

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[tokio::test]
    async fn an_end_is_over_when_the_keeper_is_done_with_it() {
        let (ends, a, b) =
            (Arc::new(Ends::default()), Id::new("id", "a").unwrap(), Id::new("id", "b").unwrap());
        assert!(!ends.is_over(&a, at(1)), "not heard of");
        let exec = ends.begin(&a, at(1), end(Some("x")));
        let init = ends.begin(&a, at(2), end(None));
        let other = ends.begin(&b, at(3), end(None));
        assert!(!ends.is_over(&a, at(1)) && !ends.is_over(&a, at(2)) && ends.is_over(&b, at(2)));
        let known = [(a.clone(), at(1), end(Some("x"))), (a.clone(), at(2), end(None))];
        assert_eq!(ends.until(at(2)), known);
        let mut waits = Box::pin(ends.execs_over(&a));
        assert!(
            waits.as_mut().now_or_never().is_none() && ends.execs_over(&b).now_or_never().is_some()
        );
        drop(exec);
        waits.await;
        assert!(ends.is_over(&a, at(1)) && !ends.is_over(&a, at(2)));
        drop((init, other));
        assert!(ends.is_over(&a, at(2)) && ends.until(at(9)).is_empty());
        assert!(!ends.is_over(&a, at(4)));
        ends.heard(at(4));
        assert!(ends.is_over(&a, at(4)));
    }
}
