//! How many of many durations were short.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The longest of each step, in milliseconds (client_golang, `DefBuckets`).
const STEPS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// Durations, counted by steps.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How many fell into each step, and were longer than the last.
    steps: [AtomicU64; STEPS_MS.len() + 1],
    nanos: AtomicU64,
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many took no longer than that.
    pub steps: Vec<(Duration, u64)>,
    /// All together.
    pub total: Duration,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    /// Something has taken so long.
    pub fn add(&self, duration: Duration) {
        let is_in = |longest: &u64| duration <= Duration::from_millis(*longest);
        let step = STEPS_MS.iter().position(is_in).unwrap_or(STEPS_MS.len());
        self.steps[step].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let mut count = 0;
        let mut up_to = |step: &AtomicU64| {
            count += step.load(Ordering::Relaxed);
            count
        };
        let longest = STEPS_MS.map(Duration::from_millis).into_iter();
        let steps = longest.zip(&self.steps).map(|(longest, step)| (longest, up_to(step)));
        let steps = steps.collect();
        let count = up_to(&self.steps[STEPS_MS.len()]);
        Counted { steps, total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_count_what_is_shorter_as_well() {
        let histogram = Histogram::default();
        for millis in [0, 5, 6, 10_000, 20_000] {
            histogram.add(Duration::from_millis(millis));
        }
        let counted = histogram.counted();
        let of = |millis| {
            let found = counted.steps.iter().find(|(s, _)| *s == Duration::from_millis(millis));
            found.map(|(_, count)| *count)
        };
        assert_eq!((of(5), of(10), of(5000), of(10_000)), (Some(2), Some(3), Some(3), Some(4)));
        assert_eq!((counted.count, counted.total), (5, Duration::from_millis(30_011)));
    }
}
