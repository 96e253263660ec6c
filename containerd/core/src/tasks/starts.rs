//! Starts of tasks: how many there may be at once, and how long they take.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use shim_protocol::Id;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::telemetry::{Measured, Timer};

/// Tasks that were made and not yet started, at most: one that is never started
/// must not be remembered for ever.
const MAX_MADE: usize = 4096;

pub(super) struct Starts {
    /// None: no limit.
    permits: Option<Semaphore>,
    timer: Timer,
    /// How long it took to make a task that is not started yet.
    made: Mutex<HashMap<(Id, Id), Duration>>,
}

/// Something is under way; it counts until this is dropped.
pub(super) struct UnderWay<'a> {
    began: Instant,
    _permit: Option<SemaphorePermit<'a>>,
}

impl UnderWay<'_> {
    /// It does not count.
    pub(super) fn beside_others() -> Self {
        Self { began: Instant::now(), _permit: None }
    }
}

impl Starts {
    pub(super) fn new(limit: usize) -> Self {
        let permits = (limit > 0).then(|| Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        Self { permits, timer: Timer::default(), made: Mutex::default() }
    }

    /// Waits until there are not too many at once. Waiting counts as time that
    /// the start takes.
    pub(super) async fn begin(&self) -> UnderWay<'_> {
        let began = Instant::now();
        let permit = match &self.permits {
            // It is never closed.
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        UnderWay { began, _permit: permit }
    }

    /// A task was made.
    pub(super) fn made(&self, namespace: &Id, id: &Id, under_way: &UnderWay<'_>) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MAX_MADE {
            made.clear();
        }
        made.insert((namespace.clone(), id.clone()), under_way.began.elapsed());
    }

    /// It was started.
    pub(super) fn started(&self, namespace: &Id, id: &Id, under_way: &UnderWay<'_>) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // One that an earlier daemon made took nobody knows how long.
        if let Some(before) = made.remove(&(namespace.clone(), id.clone())) {
            self.timer.add(before + under_way.began.elapsed());
        }
    }

    pub(super) fn measured(&self) -> Measured {
        self.timer.measured()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::testing::id;

    #[tokio::test]
    async fn only_so_many_at_once() {
        let starts = Starts::new(2);
        let (first, _second) = (starts.begin().await, starts.begin().await);
        let mut third = Box::pin(starts.begin());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        third.await;
        let free = Starts::new(0);
        let _all = futures::future::join_all((0..1000).map(|_| free.begin())).await;
    }

    #[tokio::test]
    async fn a_start_is_making_and_starting() {
        let starts = Starts::new(0);
        let (namespace, a) = (id("n"), id("a"));
        starts.started(&namespace, &a, &starts.begin().await);
        assert_eq!(starts.measured().count, 0, "nobody has seen it made");
        starts.made(&namespace, &a, &starts.begin().await);
        for _ in 0..2 {
            starts.started(&namespace, &a, &starts.begin().await);
        }
        assert_eq!(starts.measured().count, 1);
    }
}
