//! One task: its life and its end. What else can be asked of it is in
//! [`requests`].

mod checkpoint;
mod requests;
mod seen;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shim_protocol::{Error, Id, Result, proto::task_v2 as wire};
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch},
    task::AbortHandle,
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::{
    Deleted, Exit, Status,
    bundle::Bundle,
    cleanup::{self, Obituary},
    client::Connection,
    convert,
    manager::{Shared, blocking},
};

pub use self::checkpoint::CheckpointFolder;
use self::checkpoint::Kept;
pub(crate) use self::seen::{Seen, SeenProcess};

/// The task of a container, held by a shim.
///
/// Handles may be kept for as long as one likes: what is asked of a task that
/// is gone is `NotFound`.
pub struct Task {
    shared: Arc<Shared>,
    bundle: Bundle,
    runtime: PathBuf,
    life: watch::Sender<Life>,
    /// Held by whoever ends the task: a delete, or the cleanup behind a dead
    /// shim. Everything else is put in order by the shim.
    ending: AsyncMutex<()>,
    seen: Mutex<Seen>,
    /// What is under way in the work folder, such as checkpoints: the end of the
    /// folder, and of the shim, waits for it.
    in_use: TaskTracker,
    kept: Mutex<Kept>,
    log: Option<AbortHandle>,
}

/// Where a task is in its life, as far as its shim is concerned.
///
/// ```text
/// Live ─ connection lost, shim found again ─▶ Live
///   ├─── shim found dead ───────────────────▶ Died
///   └─── deleted by a client ───────────────▶ Deleted
/// ```
#[derive(Clone)]
pub(crate) enum Life {
    /// Its shim can be asked, if the connection still stands.
    Live(Arc<Connection>),
    /// Its shim died, and was cleaned up.
    Died(Arc<Obituary>),
    /// It was deleted.
    Deleted,
}

impl Task {
    /// A task whose shim answers. `log` ends with it.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        bundle: Bundle,
        runtime: PathBuf,
        connection: Arc<Connection>,
        log: Option<AbortHandle>,
        seen: Seen,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: shared.clone(),
            bundle,
            runtime,
            life: watch::Sender::new(Life::Live(connection)),
            ending: AsyncMutex::new(()),
            seen: Mutex::new(seen),
            in_use: TaskTracker::new(),
            kept: Mutex::default(),
            log,
        })
    }

    /// Namespace of the container.
    pub fn namespace(&self) -> &Id {
        self.bundle.namespace()
    }

    /// Id of the container and of its task.
    pub fn id(&self) -> &Id {
        self.bundle.id()
    }

    /// Pid of the container's init process on the host.
    pub fn pid(&self) -> u32 {
        self.seen_mut().init.pid
    }

    /// The shim binary.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Folder of the bundle.
    pub fn bundle(&self) -> &Path {
        self.bundle.path()
    }

    /// Deletes the task: container, shim (unless it has other tasks) and
    /// bundle. When it returns, all of them are gone. It waits for checkpoints
    /// that are under way, as long as for any answer. Once it has begun, it goes
    /// on if the caller goes away.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs, or a checkpoint is under way, and once
    /// for one that had to be kept, which the next delete removes; `NotFound` when
    /// it was deleted.
    pub async fn delete(self: &Arc<Self>) -> Result<Deleted> {
        loop {
            // As long as the shim was not asked nothing is lost, whoever ends.
            self.until_unused().await?;
            let task = self.clone();
            let deleted = self.shared.own(async move { task.delete_unless_used().await }).await?;
            if let Some(deleted) = deleted {
                return Ok(deleted);
            }
        }
    }

    /// Nothing if a checkpoint was begun meanwhile.
    async fn delete_unless_used(&self) -> Result<Option<Deleted>> {
        let ending = self.end_of_life().await;
        let connection = self.connection()?;
        match self.is_used() {
            true => Ok(None),
            false => self.delete_to_the_end(ending, connection).await.map(Some),
        }
    }

    async fn delete_to_the_end(
        &self,
        ending: AsyncMutexGuard<'_, ()>,
        connection: Arc<Connection>,
    ) -> Result<Deleted> {
        let request = wire::DeleteRequest { id: self.id().to_string(), ..Default::default() };
        let answer: Result<wire::DeleteResponse> =
            connection.task("Delete", &request, Some(self.limit())).await;
        let answer = match answer {
            Ok(answer) => Ok(convert::deleted_from_wire(&answer)),
            // The shim does not know it any more, so the rest can go too.
            Err(e) if e.is_not_found() => Err(e),
            Err(_) if connection.is_closed() => {
                drop(ending);
                return match self.verdict(&connection).await {
                    Some(Life::Died(obituary)) => {
                        // What it has left goes before that is released.
                        let _ending = self.end_of_life().await;
                        Ok(obituary.init)
                    }
                    Some(Life::Deleted) => Err(self.gone()),
                    Some(Life::Live(_)) | None => {
                        Err(Error::unavailable("connection to shim was lost meanwhile"))
                    }
                };
            }
            other => {
                let answer = other.map(|answer| convert::deleted_from_wire(&answer));
                return self.explain(answer, None, &[Status::Created, Status::Stopped]).await;
            }
        };
        match &answer {
            Ok(gone) => {
                self.seen_mut().init.exit = Some(gone.exit);
                self.life.send_replace(Life::Deleted);
                self.end_of_use().await;
                let folder = self.bundle.clone();
                // None needs the others.
                let ((), removed, records) = tokio::join!(
                    cleanup::retire(&self.shared, &self.bundle, &connection),
                    blocking(move || folder.remove_work()),
                    cleanup::records(&self.bundle),
                );
                if let Err(error) = removed {
                    debug!(id = %self.id(), error = %error.report(), "tried again with the bundle");
                }
                let mut seen = self.seen();
                seen.add_records(records);
                // The shim has announced all this itself, unless it could not.
                cleanup::announce_execs(&self.shared, &self.bundle, &seen).await;
                cleanup::announce_end(&self.shared, &self.bundle, *gone).await;
            }
            Err(_) => {
                self.life.send_replace(Life::Deleted);
                self.end_of_use().await;
                let (shared, bundle, seen) = (&self.shared, &self.bundle, self.seen());
                cleanup::dismiss(shared, bundle, &self.runtime, &connection, seen).await;
            }
        }
        self.end_log();
        cleanup::forget(&self.shared, &self.bundle).await;
        answer
    }

    /// Waits until init or an exec has ended, however long that takes. The
    /// death of the shim counts as an end.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the daemon shuts down.
    pub async fn wait(&self, exec: Option<&Id>) -> Result<Exit> {
        let request = wire::WaitRequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            ..Default::default()
        };
        loop {
            let connection = self.connection()?;
            let lost = match connection.task("Wait", &request, None).await {
                Ok(answer) => {
                    let exit = convert::exit_from_wire(&answer);
                    self.saw_exit(exec, exit);
                    return Ok(exit);
                }
                Err(e) if !connection.is_closed() => return Err(e),
                Err(e) => e,
            };
            match self.verdict(&connection).await {
                Some(Life::Live(_)) => {}
                Some(Life::Died(obituary)) => return self.last_words(&obituary, exec),
                Some(Life::Deleted) => return self.seen_exit(exec).ok_or_else(|| self.gone()),
                None => return Err(lost),
            }
        }
    }

    fn last_words(&self, obituary: &Obituary, exec: Option<&Id>) -> Result<Exit> {
        match exec {
            None => Ok(obituary.init.exit),
            Some(exec) => {
                obituary.execs.get(exec).map(|gone| gone.exit).ok_or_else(|| {
                    Error::not_found(format!("exec {exec:?} of task {:?}", self.id()))
                })
            }
        }
    }

    /// Remembers how a process ended, unless it is an exec that was deleted.
    fn saw_exit(&self, exec: Option<&Id>, exit: Exit) {
        let mut seen = self.seen_mut();
        match exec {
            None => seen.init.exit = Some(exit),
            Some(exec) => {
                if let Some(process) = seen.execs.get_mut(exec) {
                    process.exit = Some(exit);
                }
            }
        }
    }

    fn seen_exit(&self, exec: Option<&Id>) -> Option<Exit> {
        let seen = self.seen_mut();
        match exec {
            None => seen.init.exit,
            Some(exec) => seen.execs.get(exec).and_then(|process| process.exit),
        }
    }

    fn limit(&self) -> Duration {
        self.shared.config.timeouts.request
    }

    fn connection(&self) -> Result<Arc<Connection>> {
        match &*self.life.borrow() {
            Life::Live(connection) => Ok(connection.clone()),
            Life::Died(_) | Life::Deleted => Err(self.gone()),
        }
    }

    fn gone(&self) -> Error {
        Error::not_found(format!("task {:?}", self.id()))
    }

    /// Waits for what becomes of the task after `lost` was lost; nothing when
    /// the daemon lets go of it.
    async fn verdict(&self, lost: &Arc<Connection>) -> Option<Life> {
        let mut life = self.life.subscribe();
        let decided = life.wait_for(|life| match life {
            Life::Live(connection) => !Arc::ptr_eq(connection, lost),
            Life::Died(_) | Life::Deleted => true,
        });
        let decided = self.shared.closing.run_until_cancelled(decided).await?;
        decided.ok().map(|life| life.clone())
    }

    /// The shim was found again, after the connection `lost` was lost. A task
    /// that was deleted meanwhile stays so.
    pub(crate) fn revive(&self, lost: &Arc<Connection>, found: Arc<Connection>) {
        self.life.send_if_modified(|life| {
            let waits = matches!(life, Life::Live(old) if Arc::ptr_eq(old, lost));
            if waits {
                *life = Life::Live(found);
            }
            waits
        });
    }

    /// The shim is dead, and cleaned up.
    pub(crate) fn die(&self, obituary: Obituary) {
        self.end_log();
        self.life.send_replace(Life::Died(Arc::new(obituary)));
    }

    /// There is no container for it.
    pub(crate) fn vanish(&self) {
        self.end_log();
        self.life.send_replace(Life::Deleted);
    }

    /// The shim has told, late, what it holds.
    pub(crate) fn learned(&self, seen: Seen) {
        self.seen_mut().add(seen);
    }

    fn end_log(&self) {
        if let Some(log) = &self.log {
            log.abort();
        }
    }

    /// Was it deleted?
    pub(crate) fn is_deleted(&self) -> bool {
        matches!(&*self.life.borrow(), Life::Deleted)
    }

    /// Was it deleted, or did its shim die?
    pub(crate) fn is_over(&self) -> bool {
        !matches!(&*self.life.borrow(), Life::Live(_))
    }

    /// Follows the task's life.
    pub(crate) fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Keeps others from ending the task meanwhile.
    pub(crate) async fn end_of_life(&self) -> AsyncMutexGuard<'_, ()> {
        self.ending.lock().await
    }

    /// What was seen of its processes.
    pub(crate) fn seen(&self) -> Seen {
        self.seen_mut().clone()
    }

    /// The bundle.
    pub(crate) fn bundle_of(&self) -> &Bundle {
        &self.bundle
    }

    fn seen_mut(&self) -> MutexGuard<'_, Seen> {
        // No change of it can panic halfway through.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On the wire, init is an exec without a name.
fn name(exec: Option<&Id>) -> String {
    exec.map(Id::to_string).unwrap_or_default()
}
