//! All tasks of the daemon.

use std::sync::Arc;

use shim_protocol::{Error, Id, Result};

use crate::{Any, CreateTask, EventSink, ManagerConfig, Recovered, RuntimeInfo, Task};

/// All tasks of the daemon, by namespace and id.
pub struct Manager {
    _config: ManagerConfig,
    _events: Arc<dyn EventSink>,
}

impl Manager {
    /// A manager without tasks; see [`Manager::recover`].
    pub fn new(config: ManagerConfig, events: Arc<dyn EventSink>) -> Arc<Self> {
        Arc::new(Self { _config: config, _events: events })
    }

    /// Takes over the shims that an earlier daemon left behind, all at once,
    /// and announces the exits that nobody heard of. The daemon's ttrpc
    /// endpoint must be served already: shims deliver what they kept.
    ///
    /// # Errors
    /// Only when the folder of bundles cannot be read; trouble with one bundle
    /// is logged and counted.
    pub async fn recover(self: &Arc<Self>) -> Result<Recovered> {
        Err(Error::unimplemented("recover"))
    }

    /// Makes a bundle, starts a shim for it and lets it make the container.
    /// If anything fails, or the caller goes away, all of it is undone.
    ///
    /// # Errors
    /// `AlreadyExists` for the id of a task that exists or is being made,
    /// `NotFound` for a runtime that is not installed, `InvalidArgument` for a
    /// malformed runtime name or configuration, `DeadlineExceeded` for a shim
    /// that hangs, `FailedPrecondition` for one that talks nonsense, and
    /// whatever the shim answers.
    pub async fn create(self: &Arc<Self>, request: CreateTask) -> Result<Arc<Task>> {
        Err(Error::unimplemented(format!("create {}", request.id)))
    }

    /// The task of a container.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn get(&self, _namespace: &Id, id: &Id) -> Result<Arc<Task>> {
        Err(Error::not_found(format!("task {id:?}")))
    }

    /// All tasks of a namespace.
    pub fn list(&self, _namespace: &Id) -> Vec<Arc<Task>> {
        Vec::new()
    }

    /// The namespaces that have tasks.
    pub fn namespaces(&self) -> Vec<Id> {
        Vec::new()
    }

    /// Asks a shim binary about itself (`-info`).
    ///
    /// # Errors
    /// `NotFound` when the runtime is not installed, `InvalidArgument` for a
    /// malformed name, `FailedPrecondition` when its answer makes no sense.
    pub async fn runtime_info(&self, runtime: &str, _options: Option<&Any>) -> Result<RuntimeInfo> {
        Err(Error::unimplemented(format!("runtime info of {runtime}")))
    }

    /// Drops all connections and waits for unfinished work, with the cleanup
    /// deadline. Shims and containers are left alone. Waits that are under way
    /// end with `Unavailable`.
    pub async fn shutdown(&self) {}
}
