//! Tasks: containers that run.
//!
//! A task is made from a container's record and then lives in its shim. This
//! module knows which shim, which options and which mounts a container gets;
//! how shims are started, watched and cleaned up is `runtime-v2`'s matter.

mod checkpoint;
mod create;
mod list;
mod process;
mod request;
mod starts;

use std::{sync::Arc, time::Duration};

use runtime_v2::{Manager, Task};
use shim_protocol::{Id, Result};
use tokio_util::task::TaskTracker;

use self::starts::Starts;
use crate::{
    containers::Containers, diff::Diff, events::Exchange, namespaces::Namespaces,
    telemetry::Measured,
};

pub use checkpoint::NewCheckpoint;
pub use request::{Create, Metric, Target};
pub use runtime_v2::{Deleted, ExecProcess, Exit, Mount, Process, ProcessInfo, Status, Stdio};

/// What [`Tasks`] need to know.
#[derive(Clone, Debug)]
pub struct TasksConfig {
    /// Runtime of containers that name none, in namespaces that name none.
    pub default_runtime: String,
    /// How long one shim may take to tell a state or metrics when all are
    /// asked (`io.containerd.timeout.task.state`).
    pub state_timeout: Duration,
    /// How many tasks are made or started at the same time; 0 is no limit.
    pub concurrency: usize,
}

/// The tasks of all namespaces.
pub struct Tasks {
    config: TasksConfig,
    containers: Containers,
    namespaces: Namespaces,
    manager: Arc<Manager>,
    events: Arc<Exchange>,
    /// Where checkpoints are kept.
    diff: Diff,
    /// Work that must end well whatever becomes of the client that asked.
    work: TaskTracker,
    starts: Starts,
}

impl Tasks {
    /// Tasks of the containers in `containers`, held by the shims of `manager`;
    /// their checkpoints are archives that `diff` makes.
    pub fn new(
        config: TasksConfig,
        containers: Containers,
        namespaces: Namespaces,
        manager: Arc<Manager>,
        events: Arc<Exchange>,
        diff: Diff,
    ) -> Arc<Self> {
        let starts = Starts::new(config.concurrency);
        let work = TaskTracker::new();
        Arc::new(Self { config, containers, namespaces, manager, events, diff, work, starts })
    }

    /// How long it took to make and start tasks.
    pub fn start_times(&self) -> Measured {
        self.starts.measured()
    }

    /// How many tasks there are, in all namespaces.
    pub fn count(&self) -> usize {
        self.manager.namespaces().iter().map(|namespace| self.manager.list(namespace).len()).sum()
    }

    /// The namespaces that have tasks.
    pub fn namespaces(&self) -> Vec<Id> {
        self.manager.namespaces()
    }

    /// Announces the end of tasks that an earlier daemon has left and that are
    /// no more, such as one whose bundle somebody removed; answers how many
    /// there were. To be called once, when the manager has recovered and shims
    /// had the time to deliver what they kept (Go's try for 15 seconds).
    pub fn close_lost(&self) -> usize {
        self.events.close_inherited(|namespace, id| self.manager.is_known(namespace, id))
    }

    /// Is there a task of that container that is not on its way out, one that is
    /// being made, or a bundle of which it could not be told what became?
    pub(crate) fn has(&self, namespace: &Id, container: &Id) -> bool {
        self.manager.has(namespace, container)
    }

    /// The task of a container. Its record is not looked at, so that the task
    /// of a container whose record was removed can still be ended.
    fn task(&self, namespace: &Id, container: &Id) -> Result<Arc<Task>> {
        self.manager.get(namespace, container)
    }
}
