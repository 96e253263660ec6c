//! When to collect (containerd, `plugins/gc/scheduler.go`).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shim_protocol::{Error, Result};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{self, Instant},
};

use super::collect::{Collected, Collector};
use crate::{
    metadata::Counts,
    telemetry::{Counted, Histogram},
};

/// A pass counts as at least as long as this, so that short ones do not follow
/// each other at once.
const SHORTEST_PASS: Duration = Duration::from_millis(5);

/// How long after a pass the next one may be, while nothing else says how long.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// How much later a pass is tried again that failed; doubled with each that
/// fails after it, up to [`RETRY_DELAY_MAX`].
const RETRY_DELAY: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(64);

/// When to collect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The part of the time that collecting may take, from 0 to 0.5; 0 stands
    /// for any part.
    pub pause_threshold: f64,
    /// After how many deletions not to wait any longer; 0 is never.
    pub deletion_threshold: u64,
    /// After how many changes to collect, even without a deletion; 0 is never.
    pub mutation_threshold: u64,
    /// How long after a reason to collect this is done, so that more reasons
    /// can come together.
    pub schedule_delay: Duration,
    /// How long after the start to collect for the first time, reason or not;
    /// zero is not without a reason.
    pub startup_delay: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// Somebody who waits for a pass that begins after he asked.
type Waiter = oneshot::Sender<Result<Collected>>;

/// Collects when there is a reason. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Scheduler(Arc<Inner>);

/// How often garbage was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// How long it took those times that went well.
    pub succeeded: Counted,
    /// How often it failed.
    pub failed: u64,
}

#[derive(Default)]
struct Tally {
    succeeded: Histogram,
    failed: AtomicU64,
}

struct Inner {
    tally: Arc<Tally>,
    /// `None` after the shutdown.
    requests: Mutex<Option<mpsc::UnboundedSender<Waiter>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts to collect. Ends with [`Self::shutdown`], or when the last clone
    /// is gone.
    pub fn start(config: SchedulerConfig, collector: Collector) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let schedule = Schedule::new(config, collector.counts(), Instant::now());
        let tally = Arc::new(Tally::default());
        let task = tokio::spawn(run(schedule, collector, received, tally.clone()));
        let (requests, task) = (Mutex::new(Some(requests)), Mutex::new(Some(task)));
        Self(Arc::new(Inner { tally, requests, task }))
    }

    /// How often garbage was collected since the daemon began.
    pub fn passes(&self) -> Passes {
        let Tally { succeeded, failed } = &*self.0.tally;
        Passes { succeeded: succeeded.counted(), failed: failed.load(Ordering::Relaxed) }
    }

    /// Collects as soon as possible, and waits for the end of that.
    ///
    /// # Errors
    /// As [`Collector::collect`]; `Unavailable` when the daemon is stopping.
    pub async fn collect(&self) -> Result<Collected> {
        let stopping = || Error::unavailable("the daemon is stopping");
        let (waiter, answer) = oneshot::channel();
        let requests = lock(&self.0.requests).clone().ok_or_else(stopping)?;
        requests.send(waiter).map_err(|_| stopping())?;
        drop(requests);
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Waits for the end of the pass that is under way, and makes no other.
    /// Whoever waits for one hears that the daemon stops.
    pub async fn shutdown(&self) {
        drop(lock(&self.0.requests).take());
        let Some(task) = lock(&self.0.task).take() else { return };
        if let Err(e) = task.await {
            tracing::error!(error = %e, "the collector of garbage ended in a panic");
        }
    }
}

async fn run(
    mut schedule: Schedule,
    collector: Collector,
    mut requests: mpsc::UnboundedReceiver<Waiter>,
    tally: Arc<Tally>,
) {
    let mut waiters = Vec::new();
    loop {
        let due = schedule.due();
        let wait = async {
            match due {
                Some(due) => time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            request = requests.recv() => match request {
                Some(waiter) => {
                    waiters.push(waiter);
                    schedule.request(Instant::now());
                }
                None => return,
            },
            () = wait => {
                while let Ok(waiter) = requests.try_recv() {
                    waiters.push(waiter);
                }
                collect(&mut schedule, &collector, waiters.drain(..), &tally).await;
            }
            counts = collector.changed(schedule.counts) => schedule.note(counts, Instant::now()),
        }
    }
}

async fn collect(
    schedule: &mut Schedule,
    collector: &Collector,
    waiters: impl Iterator<Item = Waiter>,
    tally: &Tally,
) {
    schedule.begin(collector.counts());
    let outcome = collector.collect().await;
    let now = Instant::now();
    match &outcome {
        Ok(collected) => {
            tracing::debug!(?collected, "collected garbage");
            tally.succeeded.add(collected.elapsed);
            schedule.end(collected.elapsed, now);
        }
        Err(error) => {
            tracing::error!(error = %error.report(), "garbage was not collected");
            tally.failed.fetch_add(1, Ordering::Relaxed);
            schedule.fail(now);
        }
    }
    let outcome = outcome.map_err(Arc::new);
    for waiter in waiters {
        let answer = outcome.clone().map_err(|error| {
            let kind = error.kind();
            Error::caused(kind, "collect garbage", error)
        });
        // Whoever has gone away does not want to know.
        drop(waiter.send(answer));
    }
}

/// Reasons, and what follows from them. Pure.
#[derive(Debug)]
struct Schedule {
    config: SchedulerConfig,
    /// Seen so far.
    counts: Counts,
    /// When the last pass began.
    base: Counts,
    /// When somebody asked, or too much was deleted: as early as this.
    urgent: Option<Instant>,
    /// Nothing else is done before.
    earliest: Instant,
    /// Whether to collect at [`Self::earliest`] without any reason.
    first: bool,
    /// Passes in a row that failed.
    failures: u32,
    passes: u32,
    total: Duration,
    interval: Duration,
}

impl Schedule {
    fn new(mut config: SchedulerConfig, counts: Counts, now: Instant) -> Self {
        config.pause_threshold = config.pause_threshold.clamp(0.0, 0.5);
        Self {
            config,
            counts,
            base: counts,
            urgent: None,
            earliest: now + config.startup_delay,
            first: !config.startup_delay.is_zero(),
            failures: 0,
            passes: 0,
            total: Duration::ZERO,
            interval: FIRST_INTERVAL,
        }
    }

    /// When to collect next, as far as that is known.
    fn due(&self) -> Option<Instant> {
        let deletions = self.counts.deletions - self.base.deletions;
        let mutations = self.counts.mutations - self.base.mutations;
        let threshold = self.config.mutation_threshold;
        let reason = self.first || deletions > 0 || (threshold > 0 && mutations >= threshold);
        match self.urgent {
            Some(urgent) if reason => Some(urgent.min(self.earliest)),
            Some(urgent) => Some(urgent),
            None => reason.then_some(self.earliest),
        }
    }

    fn request(&mut self, now: Instant) {
        let due = now + self.config.schedule_delay;
        self.urgent = Some(self.urgent.map_or(due, |urgent| urgent.min(due)));
    }

    /// There were changes.
    fn note(&mut self, counts: Counts, now: Instant) {
        let had_reason = self.due().is_some();
        self.counts = counts;
        let deletions = counts.deletions - self.base.deletions;
        let threshold = self.config.deletion_threshold;
        if threshold > 0 && deletions >= threshold {
            self.request(now);
        } else if self.earliest <= now && !had_reason {
            // It would be at once: let others come along.
            self.earliest = now + self.config.schedule_delay;
        }
    }

    /// A pass begins; what is changed from now on is for the next one.
    fn begin(&mut self, counts: Counts) {
        (self.counts, self.base) = (counts, counts);
        (self.urgent, self.first) = (None, false);
    }

    /// It ended well, and took so long.
    fn end(&mut self, elapsed: Duration, now: Instant) {
        self.failures = 0;
        self.passes = self.passes.saturating_add(1);
        self.total += elapsed;
        let threshold = self.config.pause_threshold;
        if threshold > 0.0 {
            let mean = (self.total / self.passes).max(SHORTEST_PASS);
            self.interval = mean.mul_f64(1.0 / threshold - 1.0);
        }
        self.earliest = now + self.interval;
    }

    /// It failed, and is tried again.
    fn fail(&mut self, now: Instant) {
        let delay = RETRY_DELAY.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.earliest = now + self.interval + delay.min(RETRY_DELAY_MAX);
        self.first = true;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is inside is replaced in one step, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mutations: u64, deletions: u64) -> Counts {
        Counts { mutations, deletions }
    }

    fn schedule(config: SchedulerConfig) -> (Schedule, Instant) {
        let now = Instant::now();
        (Schedule::new(config, counts(7, 3), now), now)
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_pass_needs_no_reason() {
        let (mut schedule, now) = schedule(SchedulerConfig::default());
        assert_eq!(schedule.due(), Some(now + 100 * MS));
        schedule.begin(counts(7, 3));
        schedule.end(MS, now + 100 * MS);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn without_a_delay_at_startup_a_reason_is_needed() {
        let config = SchedulerConfig { startup_delay: Duration::ZERO, ..Default::default() };
        let (mut schedule, now) = schedule(config);
        assert_eq!(schedule.due(), None);
        schedule.note(counts(8, 4), now + MS);
        assert_eq!(schedule.due(), Some(now + MS));
    }

    #[test]
    fn passes_take_a_small_part_of_the_time() {
        let (mut schedule, now) = schedule(SchedulerConfig::default());
        schedule.begin(counts(7, 3));
        schedule.end(20 * MS, now);
        schedule.note(counts(8, 4), now + MS);
        // 20 ms are two parts in a hundred of a second.
        assert_eq!(schedule.due(), Some(now + 980 * MS));
        schedule.begin(counts(8, 4));
        assert_eq!(schedule.due(), None);
        // A reason that comes late waits no longer than it must.
        schedule.end(20 * MS, now);
        schedule.note(counts(9, 5), now + 5000 * MS);
        assert_eq!(schedule.due(), Some(now + 5000 * MS));
    }

    #[test]
    fn many_changes_are_a_reason_too() {
        let (mut schedule, now) = schedule(SchedulerConfig::default());
        schedule.begin(counts(7, 3));
        schedule.end(MS, now);
        schedule.note(counts(106, 3), now);
        assert_eq!(schedule.due(), None);
        schedule.note(counts(107, 3), now);
        assert_eq!(schedule.due(), Some(now + 245 * MS));
    }

    #[test]
    fn requests_and_many_deletions_are_urgent() {
        let config = SchedulerConfig {
            deletion_threshold: 2,
            schedule_delay: 10 * MS,
            ..Default::default()
        };
        let (mut schedule, now) = schedule(config);
        schedule.begin(counts(7, 3));
        schedule.end(20 * MS, now);
        schedule.request(now + MS);
        schedule.request(now + 2 * MS);
        assert_eq!(schedule.due(), Some(now + 11 * MS));
        schedule.begin(counts(8, 4));
        schedule.end(20 * MS, now);
        schedule.note(counts(9, 5), now);
        assert_eq!(schedule.due(), Some(now + 980 * MS));
        schedule.note(counts(10, 6), now);
        assert_eq!(schedule.due(), Some(now + 10 * MS));
    }

    #[test]
    fn what_failed_is_tried_again() {
        let (mut schedule, now) = schedule(SchedulerConfig::default());
        schedule.begin(counts(7, 3));
        schedule.fail(now);
        assert_eq!(schedule.due(), Some(now + 2000 * MS));
        schedule.begin(counts(7, 3));
        schedule.fail(now);
        assert_eq!(schedule.due(), Some(now + 3000 * MS));
        (0..100).for_each(|_| schedule.fail(now));
        assert_eq!(schedule.due(), Some(now + 65_000 * MS));
        schedule.begin(counts(7, 3));
        schedule.end(MS, now);
        schedule.fail(now);
        assert!(schedule.due() < Some(now + 3000 * MS));
    }
}
