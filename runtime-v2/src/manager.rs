//! All tasks of the daemon.

use std::{future::Future, sync::Arc};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    Any, CreateTask, EventSink, ManagerConfig, Recovered, RuntimeInfo, Task, create,
    launch::Launcher,
    log::ShimLog,
    recover,
    registry::{Found, Registry},
};

/// All tasks of the daemon, by namespace and id.
pub struct Manager {
    shared: Arc<Shared>,
}

/// What the manager and its tasks have in common.
pub(crate) struct Shared {
    pub(crate) config: Arc<ManagerConfig>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) launcher: Launcher,
    pub(crate) registry: Registry,
    /// Work that must end well whatever becomes of the client that asked.
    pub(crate) work: TaskTracker,
    /// Watches over shims. They end with `closing`.
    pub(crate) watches: TaskTracker,
    /// Cancelled when the daemon lets go of all shims.
    pub(crate) closing: CancellationToken,
}

impl Manager {
    /// A manager without tasks; see [`Manager::recover`].
    pub fn new(config: ManagerConfig, events: Arc<dyn EventSink>) -> Arc<Self> {
        let (config, work) = (Arc::new(config), TaskTracker::new());
        let shared = Shared {
            launcher: Launcher::new(config.clone(), work.clone()),
            config,
            events,
            registry: Registry::default(),
            work,
            watches: TaskTracker::new(),
            closing: CancellationToken::new(),
        };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// Takes over the shims that an earlier daemon left behind, all at once,
    /// and announces the exits that nobody heard of. The daemon's ttrpc
    /// endpoint must be served already: shims deliver what they kept.
    ///
    /// # Errors
    /// Only when the folder of bundles cannot be read; trouble with one bundle
    /// is logged and counted.
    pub async fn recover(self: &Arc<Self>) -> Result<Recovered> {
        let shared = self.shared.clone();
        self.shared.own(async move { recover::recover(&shared).await }).await
    }

    /// Makes a bundle, starts a shim for it and lets it make the container.
    /// If any step fails, all of it is undone before the error is handed back.
    /// Goes on if the caller goes away.
    ///
    /// # Errors
    /// `AlreadyExists` for the id of a task that exists or is being made,
    /// `InvalidArgument` for a malformed runtime name or configuration,
    /// `FailedPrecondition` for a runtime that is not installed or a shim that
    /// talks nonsense, `DeadlineExceeded` for one that hangs, and whatever the
    /// shim answers.
    pub async fn create(self: &Arc<Self>, request: CreateTask) -> Result<Arc<Task>> {
        if self.shared.work.is_closed() {
            return Err(Error::unavailable("the daemon shuts down"));
        }
        let shared = self.shared.clone();
        self.shared.own(async move { create::create(&shared, request).await }).await
    }

    /// The task of a container.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn get(&self, namespace: &Id, id: &Id) -> Result<Arc<Task>> {
        self.shared.registry.get(namespace, id)
    }

    /// The task of a container, also if it is being made: that is waited for, as
    /// long as for any answer of a shim.
    ///
    /// # Errors
    /// `NotFound` when there is none, or it could not be made; `Unavailable` when
    /// it takes too long, the daemon shuts down, or there is a bundle of which it
    /// could not be told what became.
    pub async fn get_when_made(&self, namespace: &Id, id: &Id) -> Result<Arc<Task>> {
        let shared = &self.shared;
        let unavailable = |why| Error::unavailable(format!("task {id:?} {why}"));
        let wait = async {
            loop {
                match shared.registry.find(namespace, id) {
                    // It is not said of what is merely let go of.
                    Found::Free if shared.closing.is_cancelled() => {
                        return Err(Error::unavailable("the daemon shuts down"));
                    }
                    Found::Free => return Err(Error::not_found(format!("task {id:?}"))),
                    Found::Left => return Err(unavailable("is left for the next daemon")),
                    Found::Task(task) => return Ok(task),
                    // Closed when that is over.
                    Found::Reserved(mut made) => drop(made.changed().await),
                }
            }
        };
        let limit = shared.config.timeouts.request;
        tokio::time::timeout(limit, wait)
            .await
            .unwrap_or_else(|_| Err(unavailable("is not made yet")))
    }

    /// Is there a task of that id, one that is being made, or a bundle of which
    /// it could not be told what became?
    pub fn is_known(&self, namespace: &Id, id: &Id) -> bool {
        self.shared.registry.contains(namespace, id)
    }

    /// As [`Manager::is_known`], but for a task that was deleted, or whose shim
    /// died, and of which the rest is on its way out. After a shutdown there may
    /// be any.
    pub fn has(&self, namespace: &Id, id: &Id) -> bool {
        match self.shared.registry.find(namespace, id) {
            Found::Free => self.shared.closing.is_cancelled(),
            Found::Reserved(_) | Found::Left => true,
            Found::Task(task) => !task.is_over(),
        }
    }

    /// All tasks of a namespace, by id.
    pub fn list(&self, namespace: &Id) -> Vec<Arc<Task>> {
        self.shared.registry.list(namespace)
    }

    /// The namespaces that have tasks.
    pub fn namespaces(&self) -> Vec<Id> {
        self.shared.registry.namespaces()
    }

    /// Asks a shim binary about itself (`-info`).
    ///
    /// # Errors
    /// `NotFound` when the runtime is not installed, `InvalidArgument` for a
    /// malformed name, `FailedPrecondition` when its answer makes no sense,
    /// `Unknown` when it fails: older shims do not know the question.
    pub async fn runtime_info(&self, runtime: &str, options: Option<&Any>) -> Result<RuntimeInfo> {
        let binary = self.shared.launcher.find(runtime)?;
        self.shared.launcher.info(&binary, options).await
    }

    /// Drops all connections, once unfinished work has ended or the cleanup
    /// deadline has passed. Shims and containers are left alone. Waits that
    /// are under way end with `Unavailable`.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        shared.work.close();
        let limit = shared.config.timeouts.cleanup;
        if tokio::time::timeout(limit, shared.work.wait()).await.is_err() {
            warn!(left = shared.work.len(), "unfinished work is left behind");
        }
        shared.closing.cancel();
        shared.watches.close();
        shared.watches.wait().await;
        shared.registry.clear();
    }
}

impl Shared {
    /// Relays the messages of a shim until its task, or the daemon, ends.
    pub(crate) fn relay(&self, log: ShimLog) -> AbortHandle {
        let relay = self.closing.clone().run_until_cancelled_owned(log.relay());
        self.watches.spawn(relay).abort_handle()
    }

    /// Runs work to its end, even if the caller goes away.
    pub(crate) async fn own<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        joined(self.work.spawn(work).await)
    }
}

/// Runs work that blocks, away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(ended: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    ended.unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "unfinished work", e)))
}
