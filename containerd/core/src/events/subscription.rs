//! One subscriber's position in the history.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use shim_protocol::{Error, ErrorKind, Result};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{Envelope, Exchange, Timestamp, delivered::Place};
use crate::filter::Filter;

/// Who asks for the next event has not taken the one before yet: it goes through
/// buffers, which end with the daemon. After this it has.
const SETTLE: Duration = Duration::from_millis(100);

/// How many events are taken out of the history at a time.
const BATCH: usize = 64;

/// What a subscriber wants to hear.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    /// Filters; an event is sent if any of them matches it, and all are sent
    /// if there are none.
    pub filters: Vec<String>,
    /// The last event that the subscriber has seen: it gets everything after.
    pub after: Option<Timestamp>,
    /// Who subscribes.
    pub by: By,
}

/// Who a subscriber is.
#[derive(Clone, Debug, Default)]
pub enum By {
    /// A client that has no name. It hears what is new.
    #[default]
    Anybody,
    /// A client by a name under which it will come back after a restart, such
    /// as its pid together with the filters. Several may have the same.
    Client(String),
    /// The daemon itself. Nothing counts as delivered because of it.
    Daemon {
        /// It hears also what was published since boot.
        since_boot: bool,
    },
}

/// A stream of events. Dropping it ends the subscription.
pub struct Subscription {
    member: Member,
    filter: Filter,
    /// Timestamp of the last event that was looked at.
    position: Timestamp,
    /// What of it will be known to have been taken, and when.
    settling: Option<(Timestamp, Instant)>,
    /// What is known to have been taken.
    taken: Timestamp,
    /// What its taker has and has not told yet, from this one on.
    held_back: Option<Timestamp>,
    batch: VecDeque<Arc<Envelope>>,
    latest: watch::Receiver<Latest>,
}

/// A subscriber, as the exchange knows it until this is dropped.
pub(super) struct Member {
    pub exchange: Weak<Exchange>,
    pub is_client: bool,
    pub place: Option<Place>,
}

impl Member {
    /// It has taken all events up to `position`.
    fn taken(&self, exchange: &Exchange, position: Timestamp) {
        if self.is_client {
            exchange.taken(position, self.place.as_ref());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.upgrade()
            && self.is_client
        {
            exchange.gone(self.place.take());
        }
    }
}

/// Wakes subscribers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    /// Timestamp of the latest event.
    pub at: Timestamp,
    /// More events may come.
    pub open: bool,
}

impl Subscription {
    pub(super) fn new(
        member: Member,
        filter: Filter,
        position: Timestamp,
        latest: watch::Receiver<Latest>,
    ) -> Self {
        let (settling, taken, held_back, batch) = (None, position, None, VecDeque::new());
        Self { member, filter, position, settling, taken, held_back, batch, latest }
    }

    /// The last event that was looked at, or after which it begins.
    pub(crate) fn position(&self) -> Timestamp {
        self.position
    }

    /// For who tells some events later than others: who asks for the next has not
    /// taken what was published at `from` and after, until it says otherwise.
    pub(crate) fn hold_back(&mut self, from: Option<Timestamp>) {
        self.held_back = from;
    }

    /// The next event that passes the filters, as soon as there is one; `None`
    /// once the exchange is closed. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted` when the subscriber is so slow that events it has
    /// not seen had to be let go. It may subscribe again, but has missed some.
    pub async fn next(&mut self) -> Result<Option<Arc<Envelope>>> {
        loop {
            self.settle();
            while let Some(envelope) = self.batch.pop_front() {
                self.position = envelope.timestamp;
                if self.filter.matches(&*envelope) {
                    return Ok(Some(envelope));
                }
            }
            // Marked as seen before looking, so that an event which comes
            // after the look wakes the wait below.
            let latest = *self.latest.borrow_and_update();
            let Some(exchange) = self.member.exchange.upgrade() else { return Ok(None) };
            if self.position < latest.at {
                self.batch = exchange.read(self.position, BATCH).map_err(too_slow)?.into();
                continue;
            }
            if !latest.open {
                self.member.taken(&exchange, self.taking());
                return Ok(None);
            }
            drop(exchange);
            let due = self.settling.map(|(_, due)| due);
            let changed = match due {
                Some(due) => timeout_at(due, self.latest.changed()).await,
                None => Ok(self.latest.changed().await),
            };
            if let Ok(Err(_)) = changed {
                return Ok(None);
            }
        }
    }

    /// Up to where all is taken, or will be soon.
    fn taking(&self) -> Timestamp {
        match self.held_back {
            Some(from) => self.position.min(from.before()),
            None => self.position,
        }
    }

    /// Notes what was asked for long enough ago, and was followed by the wish for
    /// more.
    fn settle(&mut self) {
        if !self.member.is_client {
            return;
        }
        let now = Instant::now();
        if let Some((position, due)) = self.settling
            && due <= now
        {
            self.settling = None;
            self.taken = position;
            if let Some(exchange) = self.member.exchange.upgrade() {
                self.member.taken(&exchange, position);
            }
        }
        let position = self.taking();
        if self.settling.is_none() && self.taken < position {
            self.settling = Some((position, now + SETTLE));
        }
    }
}

fn too_slow(lost: Error) -> Error {
    Error::caused(ErrorKind::ResourceExhausted, "subscriber is too slow", lost)
}
