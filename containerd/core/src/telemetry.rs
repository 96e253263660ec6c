//! Figures of the daemon itself: how long starts take, and how many there are.
//!
//! The timer is that of the library which the first containerd used
//! (`go-metrics`): the latest durations are kept for the percentiles, and rates
//! are moving averages that decay as the load of a system does.

mod histogram;

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use histogram::{Counted, Histogram};

/// Durations that are kept (go-metrics, size of the sample of a timer).
const SAMPLE: usize = 1028;

/// How often averages are brought up to date (go-metrics, `EWMA`).
const TICK: Duration = Duration::from_secs(5);

/// Ticks after which an average has decayed to nothing that could be seen.
const MAX_TICKS: u32 = 10_000;

/// Measures how long something takes, again and again.
#[derive(Debug)]
pub struct Timer {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    count: u64,
    total: Duration,
    latest: VecDeque<Duration>,
    rates: Rates,
}

/// What a [`Timer`] has measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// How often.
    pub count: u64,
    /// All together.
    pub total: Duration,
    /// Shortest, longest, average and its standard deviation, of the latest.
    pub min: Duration,
    /// See [`min`](Self::min).
    pub max: Duration,
    /// See [`min`](Self::min).
    pub mean: Duration,
    /// See [`min`](Self::min).
    pub deviation: Duration,
    /// As many parts per thousand of the latest took no longer: 500, 750, 950,
    /// 990, 999.
    pub percentiles: [(usize, Duration); 5],
    /// How many a second, over one, five and fifteen minutes.
    pub rates: [f64; 3],
    /// How many a second, since the timer was made.
    pub mean_rate: f64,
}

impl Default for Timer {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Timer {
    fn new(now: Instant) -> Self {
        let state = State {
            began: now,
            count: 0,
            total: Duration::ZERO,
            latest: VecDeque::new(),
            rates: Rates::new(now),
        };
        Self { state: Mutex::new(state) }
    }

    /// Something has taken so long.
    pub fn add(&self, duration: Duration) {
        self.add_at(duration, Instant::now());
    }

    fn add_at(&self, duration: Duration, now: Instant) {
        let mut state = self.lock();
        state.count += 1;
        state.total += duration;
        if state.latest.len() == SAMPLE {
            state.latest.pop_front();
        }
        state.latest.push_back(duration);
        state.rates.advance(now);
        state.rates.uncounted += 1;
    }

    /// What was measured so far.
    pub fn measured(&self) -> Measured {
        self.measured_at(Instant::now())
    }

    fn measured_at(&self, now: Instant) -> Measured {
        let mut state = self.lock();
        state.rates.advance(now);
        let mut sorted: Vec<_> = state.latest.iter().copied().collect();
        sorted.sort_unstable();
        let seconds: Vec<_> = sorted.iter().map(Duration::as_secs_f64).collect();
        let length = seconds.len().max(1) as f64;
        let mean = seconds.iter().sum::<f64>() / length;
        let variance = seconds.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / length;
        let age = now.duration_since(state.began).as_secs_f64();
        Measured {
            count: state.count,
            total: state.total,
            min: sorted.first().copied().unwrap_or_default(),
            max: sorted.last().copied().unwrap_or_default(),
            mean: Duration::from_secs_f64(mean),
            deviation: Duration::from_secs_f64(variance.sqrt()),
            percentiles: [500, 750, 950, 990, 999].map(|part| (part, percentile(&sorted, part))),
            rates: state.rates.averages,
            mean_rate: if age > 0.0 { state.count as f64 / age } else { 0.0 },
        }
    }

    /// Each change is whole, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duration that `part` parts per thousand do not exceed.
fn percentile(sorted: &[Duration], part: usize) -> Duration {
    let rank = (sorted.len() * part).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Moving averages over one, five and fifteen minutes.
#[derive(Debug)]
struct Rates {
    averages: [f64; 3],
    /// Since the last tick.
    uncounted: u32,
    /// The last tick.
    last: Instant,
    first: bool,
}

impl Rates {
    fn new(now: Instant) -> Self {
        Self { averages: [0.0; 3], uncounted: 0, last: now, first: true }
    }

    /// Makes up for the ticks since the last one.
    fn advance(&mut self, now: Instant) {
        let ticks = now.duration_since(self.last).as_nanos() / TICK.as_nanos();
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        for _ in 0..ticks.min(MAX_TICKS) {
            let instant = f64::from(self.uncounted) / TICK.as_secs_f64();
            for (average, minutes) in self.averages.iter_mut().zip([1.0, 5.0, 15.0]) {
                let part = 1.0 - (-TICK.as_secs_f64() / 60.0 / minutes).exp();
                *average =
                    if self.first { instant } else { *average + part * (instant - *average) };
            }
            self.first = false;
            self.uncounted = 0;
        }
        self.last += TICK.saturating_mul(ticks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_was_measured() {
        let measured = Timer::default().measured();
        assert_eq!(
            (measured.count, measured.min, measured.mean),
            (0, Duration::ZERO, Duration::ZERO)
        );
    }

    #[test]
    fn a_thousand_durations() {
        let now = Instant::now();
        let timer = Timer::new(now);
        for number in (1..=1000).rev() {
            timer.add_at(MS * number, now);
        }
        let measured = timer.measured_at(now + Duration::from_secs(10));
        assert_eq!((measured.count, measured.min, measured.max), (1000, MS, MS * 1000));
        assert_eq!(measured.mean, Duration::from_micros(500_500));
        assert_eq!(measured.deviation.as_millis(), 288);
        let wanted = [(500, 500), (750, 750), (950, 950), (990, 990), (999, 999)];
        assert_eq!(measured.percentiles, wanted.map(|(part, ms)| (part, MS * ms)));
        assert!((measured.mean_rate - 100.0).abs() < 0.01);
        // The first five seconds had all, the next five none.
        assert!(measured.rates[0] < 200.0 && measured.rates[0] > measured.mean_rate);
        assert!(measured.rates[2] > measured.rates[0], "the long average forgets slowly");
    }

    #[test]
    fn only_the_latest_are_kept() {
        let now = Instant::now();
        let timer = Timer::new(now);
        timer.add_at(MS * 9999, now);
        for _ in 0..SAMPLE {
            timer.add_at(MS, now);
        }
        let measured = timer.measured_at(now);
        assert_eq!((measured.count, measured.max), (SAMPLE as u64 + 1, MS));
        assert_eq!(measured.total, MS * (9999 + SAMPLE as u32));
    }

    #[test]
    fn a_rate_is_gone_after_a_long_time() {
        let now = Instant::now();
        let timer = Timer::new(now);
        timer.add_at(MS, now);
        let measured = timer.measured_at(now + Duration::from_secs(1_000_000));
        assert!(measured.rates.iter().all(|rate| *rate < 1e-9), "{:?}", measured.rates);
    }
}
