//! The latest events in memory, in the order of their timestamps.

use std::{collections::VecDeque, sync::Arc};

use shim_protocol::{Error, ErrorKind, Result};

use super::{Envelope, Timestamp};

/// How much is kept, for subscribers that lag or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Number of events.
    pub events: usize,
    /// Sum of their sizes, in bytes as [`size`] counts them.
    pub bytes: usize,
}

/// A ring of events. Subscribers read from it at their own pace.
pub(super) struct History {
    limits: Limits,
    events: VecDeque<Arc<Envelope>>,
    bytes: usize,
    /// Timestamp of the latest event that was let go.
    floor: Timestamp,
    /// Timestamp of the latest event ever added.
    last: Timestamp,
}

impl History {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            events: VecDeque::new(),
            bytes: 0,
            floor: Timestamp::ZERO,
            last: Timestamp::ZERO,
        }
    }

    /// Timestamp of the latest event.
    pub(super) fn last(&self) -> Timestamp {
        self.last
    }

    /// Raises the latest timestamp without an event.
    pub(super) fn set_last(&mut self, last: Timestamp) {
        self.last = self.last.max(last);
    }

    /// Timestamp of the latest event that is not held any more.
    pub(super) fn floor(&self) -> Timestamp {
        self.floor
    }

    /// Says that events up to `floor` existed but are not held.
    pub(super) fn set_floor(&mut self, floor: Timestamp) {
        self.floor = self.floor.max(floor);
        self.set_last(floor);
    }

    /// All events that are held, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Envelope>> {
        self.events.iter()
    }

    /// Adds an event that is later than all before it, and lets the oldest go
    /// where the limits say so.
    pub(super) fn push(&mut self, envelope: Arc<Envelope>) {
        debug_assert!(envelope.timestamp > self.last, "timestamps must increase");
        self.last = envelope.timestamp;
        self.bytes += size(&envelope);
        self.events.push_back(envelope);
        while self.events.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.floor = oldest.timestamp;
        }
    }

    /// Up to `limit` events after `after`, oldest first.
    ///
    /// # Errors
    /// `OutOfRange` when some events after `after` are not held any more.
    pub(super) fn after(&self, after: Timestamp, limit: usize) -> Result<Vec<Arc<Envelope>>> {
        if after < self.floor {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("events after {after} are kept only from {} on", self.floor),
            ));
        }
        let from = self.events.partition_point(|e| e.timestamp <= after);
        Ok(self.events.range(from..).take(limit).cloned().collect())
    }
}

/// About as many bytes as the event takes in memory.
fn size(envelope: &Envelope) -> usize {
    size_of::<Envelope>()
        + envelope.topic.len()
        + envelope.event.type_url.len()
        + envelope.event.value.len()
}

#[cfg(test)]
mod tests {
    use runtime_v2::Any;
    use shim_protocol::Id;

    use super::*;

    fn event(time: u64, bytes: usize) -> Arc<Envelope> {
        Arc::new(Envelope {
            timestamp: Timestamp::from_nanos(time),
            namespace: Id::new("namespace", "n").unwrap(),
            topic: "/t".into(),
            event: Any { type_url: String::new(), value: vec![0; bytes] },
        })
    }

    fn times(history: &History, after: u64, limit: usize) -> Result<Vec<u64>> {
        let events = history.after(Timestamp::from_nanos(after), limit)?;
        Ok(events.iter().map(|e| e.timestamp.as_nanos()).collect())
    }

    #[test]
    fn reads_from_any_position() {
        let mut history = History::new(Limits { events: 10, bytes: 1 << 20 });
        for time in [2, 4, 6] {
            history.push(event(time, 0));
        }
        assert_eq!(times(&history, 0, 9).unwrap(), [2, 4, 6]);
        assert_eq!(times(&history, 2, 9).unwrap(), [4, 6]);
        assert_eq!(times(&history, 3, 1).unwrap(), [4]);
        assert_eq!(times(&history, 6, 9).unwrap(), [0; 0]);
        assert_eq!(times(&history, 99, 9).unwrap(), [0; 0]);
    }

    #[test]
    fn lets_the_oldest_go_and_says_so() {
        let mut history = History::new(Limits { events: 2, bytes: 1 << 20 });
        for time in [1, 2, 3] {
            history.push(event(time, 0));
        }
        assert_eq!(times(&history, 0, 9).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(times(&history, 1, 9).unwrap(), [2, 3]);
    }

    #[test]
    fn big_events_count() {
        let mut history = History::new(Limits { events: 100, bytes: 4096 });
        for time in 1..=10 {
            history.push(event(time, 1000));
        }
        assert_eq!(history.iter().count(), 3);
        history.push(event(11, 1 << 20));
        assert_eq!(history.iter().count(), 0, "one that is too big is not held at all");
        assert_eq!(history.floor().as_nanos(), 11);
    }
}
