//! One subscriber's position in the history.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::watch;

use super::{Envelope, Exchange, Timestamp};
use crate::filter::Filter;

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
    /// Who subscribes, such as a pid together with the filters. A subscriber
    /// without [`after`](Self::after) that comes soon after boot hears, once
    /// under each key, what was published since boot; none: only what is new.
    pub key: Option<String>,
}

/// A stream of events. Dropping it ends the subscription.
pub struct Subscription {
    exchange: Weak<Exchange>,
    filter: Filter,
    /// Timestamp of the last event that was looked at.
    position: Timestamp,
    batch: VecDeque<Arc<Envelope>>,
    latest: watch::Receiver<Latest>,
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
        exchange: Weak<Exchange>,
        filter: Filter,
        position: Timestamp,
        latest: watch::Receiver<Latest>,
    ) -> Self {
        Self { exchange, filter, position, batch: VecDeque::new(), latest }
    }

    /// The next event that passes the filters, as soon as there is one; `None`
    /// once the exchange is closed. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted` when the subscriber is so slow that events it has
    /// not seen had to be let go. It may subscribe again, but has missed some.
    pub async fn next(&mut self) -> Result<Option<Arc<Envelope>>> {
        // Who asks for the next one has taken the one before.
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.taken(self.position);
        }
        loop {
            while let Some(envelope) = self.batch.pop_front() {
                self.position = envelope.timestamp;
                if self.filter.matches(&*envelope) {
                    return Ok(Some(envelope));
                }
            }
            // Marked as seen before looking, so that an event which comes
            // after the look wakes the wait below.
            let latest = *self.latest.borrow_and_update();
            let Some(exchange) = self.exchange.upgrade() else { return Ok(None) };
            exchange.taken(self.position);
            if self.position < latest.at {
                self.batch = exchange.read(self.position, BATCH).map_err(too_slow)?.into();
                continue;
            }
            drop(exchange);
            if !latest.open || self.latest.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

fn too_slow(lost: Error) -> Error {
    Error::caused(ErrorKind::ResourceExhausted, "subscriber is too slow", lost)
}
