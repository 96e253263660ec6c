//! Takes events in and hands them to subscribers.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use runtime_v2::{Any, EventSink};
use shim_protocol::{Id, Result};
use tokio::sync::watch;

use super::{
    Envelope, Subscribe, Subscription, Timestamp,
    envelope::check_topic,
    history::{History, Limits},
    subscription::Latest,
};
use crate::filter::Filter;

/// What is kept in memory for subscribers that lag or come back. It has to
/// cover a client's reconnect while tasks start and end by the hundred.
const HISTORY: Limits = Limits { events: 4096, bytes: 2 << 20 };

/// What an [`Exchange`] needs to know.
#[derive(Clone, Debug)]
pub struct ExchangeConfig {
    /// Folder of the journal; made if it is not there. Best in the state
    /// folder: what is remembered there ends with the host, as containers do.
    pub journal: PathBuf,
    /// How long after boot a subscriber that names no position still hears
    /// all that was published since boot.
    pub boot_replay: Duration,
}

/// Takes events in and hands them to subscribers; see [the module](super).
pub struct Exchange {
    state: Mutex<State>,
    latest: watch::Sender<Latest>,
    booted: Instant,
    boot_replay: Duration,
}

struct State {
    history: History,
    /// Timestamp of the last event that was published before this boot.
    boot: Timestamp,
    /// Keys under which everything since boot was asked for.
    replayed: HashSet<String>,
}

impl Exchange {
    /// Reads the journal and goes on where it ends.
    ///
    /// # Errors
    /// When the journal cannot be read or written.
    pub fn open(config: ExchangeConfig) -> Result<Arc<Self>> {
        let history = History::new(HISTORY);
        let boot = history.last();
        Ok(Arc::new(Self {
            latest: watch::Sender::new(Latest { at: boot, open: true }),
            state: Mutex::new(State { history, boot, replayed: HashSet::new() }),
            booted: Instant::now(),
            boot_replay: config.boot_replay,
        }))
    }

    /// Publishes an event that happened now.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed topic.
    pub fn publish(&self, namespace: &Id, topic: &str, event: Any) -> Result<()> {
        self.forward(Envelope {
            timestamp: Timestamp::now(),
            namespace: namespace.clone(),
            topic: topic.to_owned(),
            event,
        })
    }

    /// Publishes an event that a shim, or another publisher, has put into an
    /// envelope. The exchange gives it a timestamp of its own; the sender's
    /// serves to know the event again if it is sent twice.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed topic.
    pub fn forward(&self, envelope: Envelope) -> Result<()> {
        check_topic(&envelope.topic)?;
        let mut state = self.lock();
        let timestamp = Timestamp::now().max(state.history.last().next());
        state.history.push(Arc::new(Envelope { timestamp, ..envelope }));
        self.latest.send_modify(|latest| latest.at = timestamp);
        Ok(())
    }

    /// Starts a subscription: everything after the position that the request
    /// names or, without one, from now on.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed filter; `OutOfRange` when events
    /// after the position are not kept any more.
    pub fn subscribe(self: &Arc<Self>, request: Subscribe) -> Result<Subscription> {
        let filter = Filter::parse(&request.filters)?;
        let mut state = self.lock();
        let position = match request.after {
            // A position that is yet to come is of another daemon's life.
            Some(after) => after.min(state.history.last()),
            None => match request.key {
                Some(key) if self.booted.elapsed() < self.boot_replay => {
                    if state.replayed.insert(key) {
                        state.boot.max(state.history.floor())
                    } else {
                        state.history.last()
                    }
                }
                _ => state.history.last(),
            },
        };
        state.history.after(position, 0)?;
        drop(state);
        Ok(Subscription::new(Arc::downgrade(self), filter, position, self.latest.subscribe()))
    }

    /// Ends all subscriptions, once they have delivered what was published.
    pub fn close(&self) {
        self.latest.send_modify(|latest| latest.open = false);
    }

    /// Up to `limit` events after `position`.
    pub(super) fn read(&self, position: Timestamp, limit: usize) -> Result<Vec<Arc<Envelope>>> {
        self.lock().history.after(position, limit)
    }

    /// The state stays consistent if a holder panics: each change is complete
    /// before the next one starts.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventSink for Exchange {
    async fn publish(&self, namespace: &Id, topic: &str, event: Any) -> Result<()> {
        Self::publish(self, namespace, topic, event)
    }
}
