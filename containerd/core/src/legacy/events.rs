//! What happens to containers, in the words of 2015.

use std::{
    collections::{HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use shim_protocol::{Id, Result};

use super::{Legacy, record::Record};
use crate::events::{self, By, Ending, Happening, Subscribe, Subscription};

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
pub struct LegacyEvents {
    legacy: Arc<Legacy>,
    /// Ends of processes that nobody could see.
    unseen: VecDeque<Event>,
    /// Those, told apart by container and pid.
    told: HashSet<(Id, u32)>,
    subscription: Subscription,
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
        Ok(LegacyEvents { legacy: self.clone(), unseen, told, subscription })
    }

    /// The events of our namespace.
    pub(super) fn listen(&self, by: By) -> Result<Subscription> {
        let filter = format!("namespace=={:?}", self.config.namespace.as_str());
        self.events.subscribe(Subscribe { filters: vec![filter], after: None, by })
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
    /// The next event, as soon as there is one; `None` once the daemon stops.
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted` when the subscriber is so slow that events it has
    /// not seen had to be let go.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        if let Some(event) = self.unseen.pop_front() {
            return Ok(Some(event));
        }
        loop {
            let Some(envelope) = self.subscription.next().await? else { return Ok(None) };
            let Some((id, happening)) = events::happening(&envelope) else { continue };
            let event = translate(id, happening);
            if event.kind == EventKind::Oom && !self.legacy.config.oom_notify {
                continue;
            }
            let is_end = matches!(event.kind, EventKind::Exit | EventKind::ExecExit);
            if is_end && self.told.remove(&(event.id.clone(), event.pid)) {
                continue;
            }
            return Ok(Some(self.with_bundle(event).await));
        }
    }

    async fn with_bundle(&self, mut event: Event) -> Event {
        if event.kind == EventKind::StartContainer
            && let Ok(record) = self.legacy.record(&event.id).await
        {
            event.bundle = record.bundle.unwrap_or_default();
        }
        event
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
