//! Takes events in and hands them to subscribers.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use runtime_v2::{Any, EventSink};
use shim_protocol::{Error, Id, Result};
use tokio::sync::{Notify, watch};

use super::{
    By, Envelope, Subscribe, Subscription, Timestamp,
    delivered::{Delivered, Place},
    envelope::check,
    memory::{Memory, Subject},
    subscription::{Latest, Member},
};
use crate::filter::Filter;

/// How long to wait before a journal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What an [`Exchange`] needs to know.
#[derive(Clone, Debug)]
pub struct ExchangeConfig {
    /// Folder of the journal; made if it is not there. Best in the state
    /// folder: what is remembered there ends with the host, as containers do.
    pub journal: PathBuf,
    /// How long after [`Exchange::serve`] a client that names no position still
    /// hears all that was published since boot, and what the daemon before had
    /// no time to deliver.
    pub boot_replay: Duration,
}

/// Takes events in and hands them to subscribers; see [the module](super).
pub struct Exchange {
    state: Mutex<State>,
    latest: watch::Sender<Latest>,
    /// The journal has failed.
    behind: Notify,
    boot_replay: Duration,
    /// Events that came in since boot.
    count: AtomicU64,
}

struct State {
    memory: Memory,
    delivered: Delivered,
    /// Timestamp of the last event before this boot that a client took, or that
    /// there was no client for.
    boot: Timestamp,
    phase: Phase,
    /// How many subscriptions are those of clients.
    clients: usize,
}

/// Who may yet come back.
#[derive(Clone, Copy)]
enum Phase {
    /// Nobody can subscribe but the daemon itself.
    Boot,
    /// Clients of the daemon before come back until the time is over.
    Replay(Instant),
    /// Those that are not here are not waited for.
    Live,
    /// Clients are thrown out, and will come to the next daemon.
    Closed,
}

impl Exchange {
    /// Reads the journal and goes on where it ends. [`Self::keep_up`] is to be
    /// run beside it.
    ///
    /// # Errors
    /// When the journal cannot be read, or one cannot be started.
    pub fn open(config: ExchangeConfig) -> Result<Arc<Self>> {
        let memory = Memory::open(&config.journal)?;
        let mut delivered = Delivered::open(&config.journal)?;
        let last = memory.history.last();
        // Without a note nobody has ever subscribed to this journal.
        let boot = if delivered.at() == Timestamp::ZERO { last } else { delivered.at().min(last) };
        delivered.advance(boot);
        Ok(Arc::new(Self {
            latest: watch::Sender::new(Latest { at: last, open: true }),
            behind: Notify::new(),
            state: Mutex::new(State { memory, delivered, boot, phase: Phase::Boot, clients: 0 }),
            boot_replay: config.boot_replay,
            count: AtomicU64::new(0),
        }))
    }

    /// Clients can subscribe from now on. What is published before is not lost
    /// to them, nor what is in the time for coming back.
    pub fn serve(&self) {
        self.lock().phase = Phase::Replay(Instant::now() + self.boot_replay);
    }

    /// Publishes an event that happened now. An exit or delete that was
    /// announced before is dropped.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed topic or an event that is too big.
    pub fn publish(&self, namespace: &Id, topic: &str, event: Any) -> Result<()> {
        let (namespace, topic) = (namespace.clone(), topic.to_owned());
        self.announce(Envelope { timestamp: Timestamp::ZERO, namespace, topic, event }, None)
    }

    /// Publishes an event that a shim, or another publisher, has put into an
    /// envelope. When this returns, the event is in the journal, or in memory
    /// until the journal can be written again. The exchange gives it a timestamp
    /// of its own; the sender's serves to know the event again if it is sent twice.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed topic, an event that is too big, or
    /// one without a time.
    pub fn forward(&self, envelope: Envelope) -> Result<()> {
        if envelope.timestamp == Timestamp::ZERO {
            return Err(Error::invalid(format!("event {} has no timestamp", envelope.topic)));
        }
        let sent = Some(envelope.timestamp);
        self.announce(envelope, sent)
    }

    /// Announces the end, with whatever is missing before it, of each task that
    /// the daemon before has left and for which `exists` says no; answers how
    /// many there were. For the time after boot when it is known which shims
    /// are left and they had time to deliver.
    pub fn close_inherited(&self, exists: impl Fn(&Id, &Id) -> bool) -> usize {
        let mut state = self.lock();
        let closed = state.memory.close_inherited(exists);
        self.wake(&mut state);
        closed
    }

    /// The journal is written here and not on a thread for blocking work: it is
    /// one write(2) of some hundred bytes to the page cache of the state
    /// folder's file system, commonly a tmpfs, and takes less time than the
    /// way to another thread and back.
    fn announce(&self, envelope: Envelope, sent: Option<Timestamp>) -> Result<()> {
        check(&envelope)?;
        self.count.fetch_add(1, Ordering::Relaxed);
        let subject = Subject::of(&envelope);
        let mut state = self.lock();
        state.memory.announce(envelope, subject, sent);
        self.wake(&mut state);
        Ok(())
    }

    /// Writes what the journal misses, when it has failed, as soon as it can be
    /// written again. Never ends.
    pub async fn keep_up(&self) {
        loop {
            self.behind.notified().await;
            while self.lock().memory.is_behind() {
                tokio::time::sleep(RETRY).await;
                self.catch_up();
            }
        }
    }

    /// Writes what the journal misses, if that can be done now.
    pub fn catch_up(&self) {
        self.lock().memory.catch_up();
    }

    /// Under the lock, so that the latest timestamp never goes back.
    fn wake(&self, state: &mut State) {
        if state.memory.is_behind() {
            self.behind.notify_one();
        }
        let at = state.memory.history.last();
        if matches!(state.phase(), Phase::Live) && state.clients == 0 {
            state.delivered.advance(at);
        }
        self.latest.send_if_modified(|latest| std::mem::replace(&mut latest.at, at) != at);
    }

    /// Starts a subscription: everything after the position that the request
    /// names or, without one, from now on. A client that is named and comes
    /// soon after boot hears what is new to it: what was published after the
    /// last event that it took of the daemon before or, if it is not known, that
    /// anybody took.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed filter; `OutOfRange` when events
    /// after the position are not kept any more.
    pub fn subscribe(self: &Arc<Self>, request: Subscribe) -> Result<Subscription> {
        let filter = Filter::parse(&request.filters)?;
        let mut state = self.lock();
        let last = state.memory.history.last();
        if let Some(after) = request.after {
            state.memory.history.after(after.min(last), 0)?;
        }
        let is_client = !matches!(request.by, By::Daemon { .. });
        let (position, place) = match (request.after, request.by) {
            // A position that is yet to come is of another daemon's life.
            (Some(after), _) => (after.min(last), None),
            (None, By::Client(name)) => {
                let (position, place) = state.welcome(&name);
                (position, Some(place))
            }
            (None, By::Daemon { since_boot: true }) => (state.since_boot(), None),
            (None, By::Daemon { since_boot: false } | By::Anybody) => (last, None),
        };
        state.clients += usize::from(is_client);
        drop(state);
        let member = Member { exchange: Arc::downgrade(self), is_client, place };
        Ok(Subscription::new(member, filter, position, self.latest.subscribe()))
    }

    /// How many events came in since boot.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many subscriptions there are, those of the daemon itself included.
    pub fn subscribers(&self) -> usize {
        self.latest.receiver_count()
    }

    /// Ends all subscriptions, once they have delivered what was published.
    pub fn close(&self) {
        self.lock().phase = Phase::Closed;
        self.latest.send_modify(|latest| latest.open = false);
    }

    /// Up to `limit` events after `position`.
    pub(super) fn read(&self, position: Timestamp, limit: usize) -> Result<Vec<Arc<Envelope>>> {
        self.lock().memory.history.after(position, limit)
    }

    /// A client has taken all events up to `position`.
    pub(super) fn taken(&self, position: Timestamp, place: Option<&Place>) {
        let mut state = self.lock();
        state.delivered.advance(position);
        if let Some(place) = place {
            state.delivered.taken(place, position);
        }
    }

    /// A client has gone.
    pub(super) fn gone(&self, place: Option<Place>) {
        let mut state = self.lock();
        state.clients -= 1;
        if let Some(place) = place {
            state.delivered.go(place);
            // Forgets it, unless it may come back.
            state.phase();
        }
    }

    /// Timestamp of the latest event.
    #[cfg(test)]
    pub(super) fn last(&self) -> Timestamp {
        self.lock().memory.history.last()
    }

    #[cfg(test)]
    pub(super) fn is_behind(&self) -> bool {
        self.lock().memory.is_behind()
    }

    #[cfg(test)]
    pub(super) fn break_journal(&self) {
        self.lock().memory.break_journal();
    }

    /// The state stays consistent if a holder panics: each change is complete
    /// before the next one starts.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The phase now. In [`Phase::Live`] nobody is away.
    fn phase(&mut self) -> Phase {
        if let Phase::Replay(end) = self.phase
            && end <= Instant::now()
        {
            self.phase = Phase::Live;
        }
        if matches!(self.phase, Phase::Live) {
            self.delivered.forget_away();
        }
        self.phase
    }

    /// Where a subscriber begins that hears what was published since boot.
    fn since_boot(&self) -> Timestamp {
        self.boot.max(self.memory.history.floor())
    }

    /// Where a client begins, and its place.
    fn welcome(&mut self, name: &str) -> (Timestamp, Place) {
        let (floor, last) = (self.memory.history.floor(), self.memory.history.last());
        let is_live = matches!(self.phase(), Phase::Live);
        if let Some((place, at)) = self.delivered.come_back(name) {
            return (at.clamp(floor, last), place);
        }
        let position = if is_live { last } else { self.since_boot() };
        (position, self.delivered.come(name, position))
    }
}

#[async_trait]
impl EventSink for Exchange {
    async fn publish(&self, namespace: &Id, topic: &str, event: Any) -> Result<()> {
        Self::publish(self, namespace, topic, event)
    }

    async fn close_task(&self, namespace: &Id, id: &Id) -> Result<()> {
        let mut state = self.lock();
        state.memory.close(namespace, id);
        self.wake(&mut state);
        Ok(())
    }
}
