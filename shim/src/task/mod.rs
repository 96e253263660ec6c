//! Tasks: the containers of this shim and the processes in them.
//!
//! [`Tasks`] finds a container by its id. What a container does is split by
//! verb: `create`, `start` (and what happens at a process's end), `steer`,
//! `query`, `delete`. What it may do, and what the daemon hears of it in which
//! order, is decided in [`lifecycle`] alone.

pub(crate) mod announce;
pub mod container;
mod create;
mod delete;
pub mod lifecycle;
mod query;
mod start;
pub mod state;
mod steer;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

pub use container::Container;
pub use create::Create;
pub use lifecycle::Exit;

use crate::{
    bundle::Bundle, events::Outbox, options::RuntimeOptions, reaper::Reaper, runtime::Runtime,
};

/// Makes the OCI runtime of a container.
pub type MakeRuntime = dyn Fn(&Bundle, &RuntimeOptions) -> Arc<dyn Runtime> + Send + Sync;

/// What all containers of a shim share.
pub struct Context {
    /// The containerd namespace of all of them.
    pub namespace: Id,
    /// Waits for all their processes.
    pub reaper: Arc<Reaper>,
    /// Takes their events.
    pub outbox: Arc<Outbox>,
    /// Makes their OCI runtimes.
    pub runtimes: Box<MakeRuntime>,
    /// Owns what goes on in the background.
    pub background: TaskTracker,
}

/// An exec to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSpec {
    /// OCI `Process` as JSON.
    pub process: Vec<u8>,
    /// Its streams.
    pub stdio: crate::io::Stdio,
}

/// The containers of a shim.
pub struct Tasks {
    context: Arc<Context>,
    containers: Mutex<Containers>,
    shutdown: Notify,
}

#[derive(Default)]
struct Containers {
    /// `None` while a container is being created.
    by_id: BTreeMap<Id, Option<Arc<Container>>>,
    /// The shim is about to end: whoever comes now would be left alone.
    closed: bool,
}

impl Tasks {
    /// No container yet.
    pub fn new(context: Context) -> Self {
        Self { context: Arc::new(context), containers: Mutex::default(), shutdown: Notify::new() }
    }

    /// Finds a container.
    ///
    /// # Errors
    /// `NotFound` when there is none, or it is only being created.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        self.lock()
            .by_id
            .get(id)
            .cloned()
            .flatten()
            .ok_or_else(|| Error::not_found(format!("container {id:?}")))
    }

    /// Creates a container.
    ///
    /// # Errors
    /// `AlreadyExists` for a taken id, `Unavailable` when the shim is about to
    /// end; else as [`Container::create`].
    pub async fn create(&self, request: Create) -> Result<Arc<Container>> {
        let id = request.id.clone();
        let reserved = self.reserve(id.clone())?;
        let container = Container::create(Arc::clone(&self.context), request).await?;
        self.lock().by_id.insert(id, Some(Arc::clone(&container)));
        reserved.keep();
        Ok(container)
    }

    /// Deletes a container, or one exec of it: its pid and exit, if it ever ran.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when the process has not ended.
    pub async fn delete(&self, id: &str, exec: Option<&Id>) -> Result<(u32, Option<Exit>)> {
        let container = self.get(id)?;
        match exec {
            Some(exec) => container.delete_exec(exec).await,
            None => {
                let ended = container.delete().await?;
                self.lock().by_id.remove(id);
                Ok(ended)
            }
        }
    }

    /// Asks the shim to end. It does not while it has a container, and then
    /// answers false. Else it takes no container from now on.
    pub fn shutdown(&self) -> bool {
        let mut containers = self.lock();
        let idle = containers.by_id.is_empty();
        if idle {
            containers.closed = true;
            self.shutdown.notify_one();
        }
        idle
    }

    /// Ids and pids, for the log.
    pub fn describe(&self) -> String {
        let containers = self.lock();
        let words = containers.by_id.iter().map(|(id, container)| match container {
            Some(container) => format!("{id}={}", container.pid()),
            None => format!("{id}=?"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Waits until the shim is to end.
    pub async fn shut_down(&self) {
        self.shutdown.notified().await;
    }

    /// Runs work to its end, even if whoever asked for it goes away: a ttrpc
    /// handler is dropped when its connection closes.
    ///
    /// # Errors
    /// Those of the work; `Internal` when it panicked.
    pub async fn own<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.context
            .background
            .spawn(work)
            .await
            .map_err(|e| Error::caused(ErrorKind::Internal, "handle a request", e))?
    }

    fn reserve(&self, id: Id) -> Result<Reserved<'_>> {
        let mut containers = self.lock();
        if containers.closed {
            return Err(Error::unavailable("the shim is shutting down"));
        }
        if containers.by_id.contains_key(&id) {
            return Err(Error::already_exists(format!("container {id:?}")));
        }
        containers.by_id.insert(id.clone(), None);
        Ok(Reserved { tasks: self, id: Some(id) })
    }

    fn lock(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id that is taken; free again on drop unless it was kept.
struct Reserved<'a> {
    tasks: &'a Tasks,
    id: Option<Id>,
}

impl Reserved<'_> {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.tasks.lock().by_id.remove(id);
        }
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::caused(ErrorKind::Internal, "run on a thread", e))?
}
