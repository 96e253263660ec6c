//! What happens to containers, in the words of 2015.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use shim_protocol::{Id, Result};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Legacy, record::Record};
use crate::events::{self, By, Ending, Envelope, Happening, Subscribe, Subscription, Timestamp};

/// How long the end of a process is kept back for its output: a little longer
/// than our shim waits for who does not read it.
pub(super) const OUTPUT: Duration = Duration::from_secs(12);

/// Something that has happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The container.
    pub id: Id,
    /// The process; 0 if it is none in particular.
    pub pid: u32,
    /// Exit code, or 128 plus the number of a signal, of a process that ended.
    pub status: u32,
    /// The container's bundle; empty where it is not said.
    pub bundle: PathBuf,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A container was started.
    StartContainer,
    /// A process was added.
    AddProcess,
    /// A container was frozen, or goes on.
    UpdateContainer,
    /// The kernel killed for want of memory.
    Oom,
    /// A process that was added has ended.
    ExecExit,
    /// A container's first process has ended.
    Exit,
}

impl EventKind {
    /// The original's name for it (containerd 0.0.4, `event.go`).
    pub fn name(self) -> &'static str {
        match self {
            Self::StartContainer => "startContainer",
            Self::AddProcess => "addProcess",
            Self::UpdateContainer => "updateContainer",
            Self::Oom => "oom",
            Self::ExecExit => "execExit",
            Self::Exit => "exit",
        }
    }
}

/// What happens from now on, after what happened while nobody could listen.
///
/// The end of a process is told when what it wrote is where it should go, as in
/// 2015, when a shim ended after its last copy. Only then the keeper is done
/// with it.
pub struct LegacyEvents {
    legacy: Arc<Legacy>,
    /// To be told now.
    ready: VecDeque<Event>,
    /// What was told of ends that nobody could see, by container and pid.
    told: HashSet<(Id, u32)>,
    subscription: Subscription,
    /// What has happened to containers, since an end that the keeper is at.
    held: BTreeMap<Id, VecDeque<Untold>>,
    /// Tells that the keeper has got on.
    changes: watch::Receiver<()>,
}

/// Something that is told later.
struct Untold {
    event: Event,
    /// When it was published.
    at: Timestamp,
    /// The end of a process is told then, whatever became of its output.
    due: Option<Instant>,
}

impl Legacy {
    /// Listens to what happens to containers. First come the ends of those
    /// that ended while the daemon was away and are still in the state.
    ///
    /// `name` is the client's, as in [`By::Client`].
    ///
    /// # Errors
    /// Those of the database.
    pub async fn subscribe(self: &Arc<Self>, name: String) -> Result<LegacyEvents> {
        // Before looking: what happens in between comes twice rather than never.
        let subscription = self.listen(By::Client(name))?;
        let changes = self.ends.changes();
        let under_way = self.ends.until(subscription.position());
        let mut unseen = VecDeque::new();
        let all = self.containers.list::<&str>(&self.config.namespace, &[]).await?;
        for record in all.iter().filter_map(Record::read_or_warn).filter(Record::is_ours) {
            unseen.extend(self.unseen(&record));
        }
        let told: HashSet<_> = unseen.iter().map(|event| (event.id.clone(), event.pid)).collect();
        // They were published before, and are not told yet.
        let due = Instant::now() + OUTPUT;
        let mut held: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
        for (id, at, happening) in under_way {
            let event = translate(id.clone(), happening);
            if !told.contains(&(id.clone(), event.pid)) {
                held.entry(id).or_default().push_back(Untold { event, at, due: Some(due) });
            }
        }
        Ok(LegacyEvents { legacy: self.clone(), ready: unseen, told, subscription, held, changes })
    }

    /// The events of our namespace.
    pub(super) fn listen(&self, by: By) -> Result<Subscription> {
        let filter = format!("namespace=={:?}", self.config.namespace.as_str());
        self.events.subscribe(Subscribe { filters: vec![filter], after: None, by })
    }

    /// The bundle that an event is told with.
    async fn bundle_of(&self, kind: EventKind, id: &Id) -> PathBuf {
        match kind {
            EventKind::StartContainer => {
                let record = self.record(id).await;
                record.ok().and_then(|record| record.bundle).unwrap_or_default()
            }
            _ => PathBuf::new(),
        }
    }

    /// Processes of a container that ended before this daemon served anybody,
    /// added ones first.
    fn unseen(&self, record: &Record) -> Vec<Event> {
        let event = |kind, ending: Ending| Event {
            kind,
            id: record.id.clone(),
            pid: ending.pid,
            status: ending.status,
            bundle: PathBuf::new(),
        };
        let ended = |exec| self.unseen.of(&record.id, exec);
        let execs = record.processes.keys();
        let execs = execs.filter_map(|exec| ended(Some(exec)));
        let execs = execs.map(|ending| event(EventKind::ExecExit, ending));
        let init = record.exit.or_else(|| ended(None));
        execs.chain(init.map(|ending| event(EventKind::Exit, ending))).collect()
    }
}

impl LegacyEvents {
    /// The next event, as soon as it may be told; `None` once the daemon stops.
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted` when the subscriber is so slow that events it has
    /// not seen had to be let go.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.front() {
                let bundle = self.legacy.bundle_of(event.kind, &event.id).await;
                return Ok(self.ready.pop_front().map(|event| Event { bundle, ..event }));
            }
            // Who comes back after a restart has not heard of these.
            let oldest = self.held.values().flatten().map(|held| held.at).min();
            self.subscription.hold_back(oldest);
            let due = self.held.values().filter_map(|held| held.front()?.due).min();
            tokio::select! {
                // The sender is in `legacy`.
                _ = self.changes.changed() => self.release(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.release();
                }
                next = self.subscription.next() => match next {
                    Ok(Some(envelope)) => self.take(&envelope),
                    end if self.held.is_empty() => return end.map(|_| None),
                    // They are told first. The end is there when it is asked for again.
                    Ok(None) | Err(_) => {
                        let held = std::mem::take(&mut self.held);
                        self.ready.extend(held.into_values().flatten().map(|held| held.event));
                    }
                },
            }
        }
    }

    fn take(&mut self, envelope: &Envelope) {
        let Some((id, happening)) = events::happening(envelope) else { return };
        let event = translate(id, happening);
        if event.kind == EventKind::Oom && !self.legacy.config.oom_notify {
            return;
        }
        let is_end = matches!(event.kind, EventKind::Exit | EventKind::ExecExit);
        if is_end && self.told.remove(&(event.id.clone(), event.pid)) {
            return;
        }
        let due = is_end.then(|| Instant::now() + OUTPUT);
        let queue = self.held.entry(event.id.clone()).or_default();
        queue.push_back(Untold { event, at: envelope.timestamp, due });
        self.release();
    }

    /// What has happened to a container may be told up to the first end that
    /// the keeper is at.
    fn release(&mut self) {
        let (now, ends) = (Instant::now(), &self.legacy.ends);
        self.held.retain(|id, queue| {
            let may_be_told = |untold: &Untold| {
                untold.due.is_none_or(|due| due <= now || ends.is_over(id, untold.at))
            };
            while queue.front().is_some_and(may_be_told) {
                self.ready.extend(queue.pop_front().map(|untold| untold.event));
            }
            !queue.is_empty()
        });
    }
}

fn translate(id: Id, happening: Happening) -> Event {
    let (kind, pid, status) = match happening {
        Happening::Started { pid } => (EventKind::StartContainer, pid, 0),
        Happening::ExecStarted { pid, .. } => (EventKind::AddProcess, pid, 0),
        Happening::Ended(ending) => (EventKind::Exit, ending.pid, ending.status),
        Happening::ExecEnded { ending, .. } => (EventKind::ExecExit, ending.pid, ending.status),
        Happening::OutOfMemory => (EventKind::Oom, 0, 0),
        Happening::Paused | Happening::Resumed => (EventKind::UpdateContainer, 0, 0),
    };
    Event { kind, id, pid, status, bundle: PathBuf::new() }
}
