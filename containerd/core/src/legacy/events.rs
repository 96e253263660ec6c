//! What happens to containers, in the words of 2015.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use shim_protocol::{Id, Result};
use tokio::time::{Instant, timeout_at};

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
/// 2015, when a shim ended after its last copy. Only then the keeper takes the
/// process away, which is what is waited for.
pub struct LegacyEvents {
    legacy: Arc<Legacy>,
    /// To be told now.
    ready: VecDeque<Event>,
    /// What was told of ends that nobody could see, by container and pid.
    told: HashSet<(Id, u32)>,
    subscription: Subscription,
    /// What has happened to containers, since a process whose end is the first.
    held: BTreeMap<Id, VecDeque<Held>>,
    /// One for each of these containers: until its first event may be told.
    waits: FuturesUnordered<BoxFuture<'static, Id>>,
    /// No more will come.
    end: Option<Result<()>>,
}

/// Something that is told later.
struct Held {
    event: Event,
    /// When it was published.
    at: Timestamp,
    /// The process that has ended, if that is what happened.
    ended: Option<Ended>,
}

struct Ended {
    exec: Option<Id>,
    ending: Ending,
    /// Then it is told, whatever became of its output.
    due: Instant,
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
        let mut unseen = VecDeque::new();
        let all = self.containers.list::<&str>(&self.config.namespace, &[]).await?;
        for record in all.iter().filter_map(Record::read_or_warn).filter(Record::is_ours) {
            unseen.extend(self.unseen(&record));
        }
        let told = unseen.iter().map(|event| (event.id.clone(), event.pid)).collect();
        Ok(LegacyEvents {
            legacy: self.clone(),
            ready: unseen,
            told,
            subscription,
            held: BTreeMap::new(),
            waits: FuturesUnordered::new(),
            end: None,
        })
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
            if let Some(end) = self.end.take() {
                return end.map(|()| None);
            }
            // Who comes back after a restart has not heard of these.
            let oldest = self.held.values().flatten().map(|held| held.at).min();
            self.subscription.hold_back(oldest);
            tokio::select! {
                Some(id) = self.waits.next() => self.release(id),
                next = self.subscription.next() => match next {
                    Ok(Some(envelope)) => self.take(&envelope),
                    Ok(None) => self.finish(Ok(())),
                    Err(error) => self.finish(Err(error)),
                },
            }
        }
    }

    fn take(&mut self, envelope: &Envelope) {
        let Some((id, happening)) = events::happening(envelope) else { return };
        let ended = match &happening {
            Happening::Ended(ending) => Some((None, *ending)),
            Happening::ExecEnded { exec, ending } => Some((Some(exec.clone()), *ending)),
            _ => None,
        };
        let event = translate(id, happening);
        if event.kind == EventKind::Oom && !self.legacy.config.oom_notify {
            return;
        }
        if ended.is_some() && self.told.remove(&(event.id.clone(), event.pid)) {
            return;
        }
        let due = Instant::now() + OUTPUT;
        let ended = ended.map(|(exec, ending)| Ended { exec, ending, due });
        if let Some(before) = self.held.get_mut(&event.id) {
            before.push_back(Held { event, at: envelope.timestamp, ended });
            return;
        }
        match ended {
            None => self.ready.push_back(event),
            Some(ended) => {
                let id = event.id.clone();
                self.waits.push(self.wait(&id, &ended));
                let held = Held { event, at: envelope.timestamp, ended: Some(ended) };
                self.held.insert(id, VecDeque::from([held]));
            }
        }
    }

    /// A container's first event that is held may be told, and what has happened
    /// to it until the next process ended.
    fn release(&mut self, id: Id) {
        let Some(mut held) = self.held.remove(&id) else { return };
        self.ready.extend(held.pop_front().map(|first| first.event));
        while let Some(next) = held.pop_front() {
            if let Some(ended) = &next.ended {
                self.waits.push(self.wait(&id, ended));
                held.push_front(next);
                self.held.insert(id, held);
                return;
            }
            self.ready.push_back(next.event);
        }
    }

    /// Tells what is held now; nobody would do so later.
    fn finish(&mut self, end: Result<()>) {
        self.waits.clear();
        let held = std::mem::take(&mut self.held);
        self.ready.extend(held.into_values().flatten().map(|held| held.event));
        self.end = Some(end);
    }

    fn wait(&self, id: &Id, ended: &Ended) -> BoxFuture<'static, Id> {
        let (legacy, id) = (self.legacy.clone(), id.clone());
        let (exec, ending, due) = (ended.exec.clone(), ended.ending, ended.due);
        let wait = async move {
            // One that cannot be taken away has ended nevertheless.
            let _ = timeout_at(due, legacy.taken_away(&id, exec.as_ref(), ending)).await;
            id
        };
        wait.boxed()
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
