//! How long to wait before a container is started again.

use std::time::{Duration, Instant};

/// After the first start that did not last. Doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A task that ran this long starts over without a delay.
const LASTED: Duration = Duration::from_secs(10);

/// The starts of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    last: Option<Instant>,
    delay: Duration,
}

impl Backoff {
    /// When the next start may be. Asked when the task has ended.
    pub(super) fn due(&self, now: Instant) -> Instant {
        match self.last {
            Some(last) if now.duration_since(last) < LASTED => last + self.delay,
            _ => now,
        }
    }

    /// It is started now.
    pub(super) fn started(&mut self, now: Instant) {
        let lasted = self.last.is_none_or(|last| now.duration_since(last) >= LASTED + self.delay);
        self.delay = if lasted { FIRST } else { (self.delay * 2).min(LONGEST) };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_until_it_lasts() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let mut waited = Vec::new();
        for _ in 0..13 {
            let due = backoff.due(now);
            waited.push((due - now).as_millis());
            now = due;
            backoff.started(now);
        }
        assert_eq!(waited[..4], [0, 100, 200, 400]);
        assert_eq!(waited[11..], [60_000, 60_000]);
        now += LASTED;
        assert_eq!(backoff.due(now), now);
        now += LONGEST;
        backoff.started(now);
        assert_eq!(backoff.due(now), now + FIRST);
    }
}
