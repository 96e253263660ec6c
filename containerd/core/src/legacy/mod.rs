//! Containers as the APIs of 2015 have them: a name, a bundle on disk, and
//! processes known by their pids.
//!
//! Such a container is a record and a task like any other, in a namespace of
//! its own. Its spec is the `config.json` of its bundle, whose root is used as
//! it lies there. What the rest of the core has no place for is in extensions
//! of the record:
//!
//! ```text
//! io.containerd.legacy.v1                 the bundle's path
//! io.containerd.legacy.v1.exit            how init ended, while the daemon was away
//! io.containerd.legacy.v1.process.<exec>  a process that was added, as it was asked for
//! io.containerd.legacy.v1.unwanted        its start was said to have failed, it is to be ended
//! io.containerd.legacy.v1.unwanted.<exec> so was that of a process
//! ```
//!
//! So nothing has to be remembered in memory. A container goes away when its
//! first process ends, as it did in 2015. One that ends while the daemon is
//! away stays, and is listed as stopped, until it is started again or removed
//! through another API; each subscriber of events hears of its end.
//!
//! What runs in the namespace by the doing of other APIs is seen and can be
//! stopped, but is never removed here.

mod bundle;
mod checkpoint;
mod create;
mod ends;
mod events;
mod keeper;
mod locks;
mod look;
mod machine;
mod process;
mod record;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod unseen;

use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{
    checkpoint::FolderId,
    ends::Ends,
    locks::{Held, Locks},
    unseen::Unseen,
};
use crate::{
    containers::Containers,
    events::Exchange,
    tasks::{Target, Tasks},
};

pub use checkpoint::{Checkpoint, Checkpointer, TaskCheckpoints};
pub use events::{Event, EventKind, LegacyEvents};
pub use keeper::{Keeper, Prepared};
pub use machine::Machine;
pub use stats::{Interface, Stats};

/// How long one step may take that takes something away.
const CLEANUP: Duration = Duration::from_secs(30);

/// How long it may take to put one container in order.
const JOB: Duration = Duration::from_secs(60);

/// How long what was begun may go on when the daemon stops, and then how long
/// it may take to undo what was not done by then.
const LAST_WORK: Duration = Duration::from_secs(5);

/// What [`Legacy`] needs to know.
#[derive(Clone, Debug)]
pub struct LegacyConfig {
    /// Where the containers are.
    pub namespace: Id,
    /// What runs them, such as `io.containerd.runc.v2`.
    pub runtime: String,
    /// Their OCI runtime, such as `runc`; empty: the shim's own.
    pub binary: String,
    /// Name of this instance, which clients are told.
    pub id: String,
    /// Whether subscribers hear of it when the kernel kills for want of memory.
    pub oom_notify: bool,
}

/// The containers of the APIs of 2015.
pub struct Legacy {
    config: LegacyConfig,
    containers: Containers,
    tasks: Arc<Tasks>,
    events: Arc<Exchange>,
    checkpointer: Arc<dyn Checkpointer>,
    /// Making and removing of one container, one after the other.
    locks: Locks<Id>,
    /// Making and removing of checkpoints in one folder, one after the other.
    /// Who needs both locks takes this one first.
    folders: Locks<FolderId>,
    /// What was begun goes on if its client goes away.
    work: TaskTracker,
    /// Set when it has to end.
    closing: CancellationToken,
    /// Processes that ended unseen.
    unseen: Unseen,
    /// What the keeper has to look at again.
    again: Mutex<BTreeSet<Id>>,
    /// Ends that the keeper is at.
    ends: Arc<Ends>,
}

/// A container to be made and started. Paths of streams are absolute; an empty
/// one is no stream.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Its name.
    pub id: String,
    /// Absolute path of its bundle.
    pub bundle: String,
    /// Its streams.
    pub streams: Streams,
    /// Name of the checkpoint to restore; empty: a fresh start.
    pub checkpoint: String,
}

/// Where the streams of a process are.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// A FIFO or file.
    pub stdin: String,
    /// A FIFO or file.
    pub stdout: String,
    /// A FIFO or file.
    pub stderr: String,
    /// The client's side of a terminal, for a process with one. Then it stands
    /// for all three.
    pub console: String,
    /// Files that are not there are made.
    pub make_files: bool,
}

/// A process, as in the OCI runtime specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessSpec {
    /// It has a terminal.
    pub terminal: bool,
    /// As whom it runs.
    pub user: User,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Its working folder; `/` if it is empty.
    pub cwd: String,
}

/// As whom a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// A process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid on the host, which it had if it has ended.
    pub pid: u32,
    /// What it was made from.
    pub spec: ProcessSpec,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its processes run.
    Running,
    /// They are frozen.
    Paused,
    /// Its first process ended while the daemon was away, with this status.
    Stopped(u32),
    /// Its shim does not say.
    Unknown,
}

impl Status {
    /// The name that clients get. The original has the first two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

/// A container, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub id: Id,
    /// Where its bundle is.
    pub bundle: PathBuf,
    /// Where it is in its life.
    pub status: Status,
    /// Its processes, its own first.
    pub processes: Vec<Process>,
}

impl Legacy {
    /// Containers in the namespace of `config`, with checkpoints made by
    /// `checkpointer`.
    pub fn new(
        config: LegacyConfig,
        containers: Containers,
        tasks: Arc<Tasks>,
        events: Arc<Exchange>,
        checkpointer: Arc<dyn Checkpointer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            containers,
            tasks,
            events,
            checkpointer,
            locks: Locks::default(),
            folders: Locks::default(),
            work: TaskTracker::new(),
            closing: CancellationToken::new(),
            unseen: Unseen::default(),
            again: Mutex::default(),
            ends: Arc::default(),
        })
    }

    /// What this machine is.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn machine(&self) -> Result<Machine> {
        let id = self.config.id.clone();
        blocking("ask", "the system", move || machine::read(id)).await
    }

    /// Waits for what was begun, but not longer than a deadline: then it is
    /// given up and undone. Containers are left alone.
    pub async fn shutdown(&self) {
        self.work.close();
        let ended = timeout(LAST_WORK, self.work.wait()).await.is_ok();
        self.closing.cancel();
        if ended {
            return;
        }
        warn!(left = self.work.len(), "requests for legacy containers are given up");
        if timeout(LAST_WORK, self.work.wait()).await.is_err() {
            warn!(left = self.work.len(), "what they had begun is left to the next daemon");
        }
    }

    fn target(&self, container: &Id, exec: Option<Id>) -> Target {
        Target { namespace: self.config.namespace.clone(), container: container.clone(), exec }
    }

    /// The lock of a container. What has to be done under it is given up with its
    /// caller until it is held; then it is to be [owned](Self::own).
    async fn hold(&self, id: &Id) -> Result<Held<Id>> {
        self.unless_stopping(self.locks.hold(id)).await
    }

    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.closing.run_until_cancelled(work).await.ok_or_else(stopping)
    }

    /// Runs `work` to its end, whatever becomes of the caller, unless the daemon
    /// stops and it takes too long.
    async fn own<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let closing = self.closing.clone();
        let work = async move {
            let done = closing.run_until_cancelled_owned(work).await;
            done.unwrap_or_else(|| Err(stopping()))
        };
        self.work.spawn(work).await.unwrap_or_else(|panic| {
            Err(Error::caused(ErrorKind::Internal, "a request ended in a panic", panic))
        })
    }
}

/// The name of a container, checked.
///
/// # Errors
/// `InvalidArgument`.
fn container_id(text: &str) -> Result<Id> {
    Id::new("container id", text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopping() -> Error {
    Error::unavailable("the daemon is stopping")
}

fn late(what: &impl std::fmt::Display, limit: Duration) -> Error {
    Error::new(ErrorKind::DeadlineExceeded, format!("{what} did not end in {limit:?}"))
}

fn or_gone<T>(result: Result<T>) -> Result<()> {
    match result {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

/// Runs work that blocks, where it may.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    what: impl std::fmt::Display,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(Error::caused(ErrorKind::Internal, format!("{doing} {what}"), panic))
    })
}
