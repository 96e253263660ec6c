//! One task, and what can be asked of it.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protobuf::{Message, MessageField, well_known_types::empty::Empty};
use shim_protocol::{Error, ErrorKind, Id, Result, proto::task_v2 as wire};
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch},
    task::AbortHandle,
};

use crate::{
    Any, Deleted, ExecProcess, Exit, Process, ProcessInfo, Status,
    bundle::Bundle,
    cleanup::{self, Obituary},
    client::Connection,
    convert,
    manager::Shared,
};

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

/// What the daemon has seen of the processes of a task. Should the shim die,
/// this is what can still be told.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) init: SeenProcess,
    pub(crate) execs: HashMap<Id, SeenProcess>,
}

/// Pid (0 is none yet) and end of one process.
#[derive(Clone, Copy, Default)]
pub(crate) struct SeenProcess {
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
}

impl Seen {
    /// Only init, with its pid.
    pub(crate) fn init(pid: u32) -> Self {
        Self { init: SeenProcess { pid, exit: None }, execs: HashMap::new() }
    }

    fn process(&mut self, exec: Option<&Id>) -> &mut SeenProcess {
        match exec {
            None => &mut self.init,
            Some(exec) => self.execs.entry(exec.clone()).or_default(),
        }
    }
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

    /// Asks the shim for the state of init or an exec.
    ///
    /// # Errors
    /// `NotFound` when the exec, or the task, does not exist (any more),
    /// `DeadlineExceeded` when the shim hangs.
    pub async fn state(&self, exec: Option<&Id>) -> Result<Process> {
        let request = wire::StateRequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            ..Default::default()
        };
        let limit = self.shared.config.timeouts.state;
        let answer = self.call("State", &request, limit).await?;
        let process = convert::process_from_wire(self.id(), exec, self.bundle.path(), answer);
        if process.exit.is_some() {
            self.seen_mut().process(exec).exit = process.exit;
        }
        Ok(process)
    }

    /// Starts init or an exec; answers its pid.
    ///
    /// # Errors
    /// `NotFound`, and `FailedPrecondition` when it was started before.
    pub async fn start(&self, exec: Option<&Id>) -> Result<u32> {
        let request = wire::StartRequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            ..Default::default()
        };
        let answer = self.call("Start", &request, self.limit()).await;
        let answer: wire::StartResponse = self.explain(answer, exec, &[Status::Created]).await?;
        self.seen_mut().process(exec).pid = answer.pid;
        Ok(answer.pid)
    }

    /// Deletes the task: container, shim (unless it has other tasks) and
    /// bundle. When it returns, all of them are gone. Goes on if the caller
    /// goes away.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs, `NotFound` when it was deleted.
    pub async fn delete(self: &Arc<Self>) -> Result<Deleted> {
        let task = self.clone();
        self.shared.own(async move { task.delete_to_the_end().await }).await
    }

    async fn delete_to_the_end(&self) -> Result<Deleted> {
        let ending = self.end_of_life().await;
        let connection = self.connection()?;
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
                    Some(Life::Died(obituary)) => Ok(obituary.init),
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
        if let Ok(gone) = &answer {
            self.seen_mut().init.exit = Some(gone.exit);
        }
        self.life.send_replace(Life::Deleted);
        cleanup::retire(&self.shared, &self.bundle, &connection).await;
        // The shim has announced this itself, unless it has given up trying.
        if let Ok(gone) = &answer {
            cleanup::announce_end(&self.shared, &self.bundle, *gone).await;
        }
        self.end_log();
        cleanup::forget(&self.shared, &self.bundle).await;
        answer
    }

    /// Deletes an exec that has ended or was not started.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs, `NotFound`.
    pub async fn delete_exec(&self, exec: &Id) -> Result<Deleted> {
        let request = wire::DeleteRequest {
            id: self.id().to_string(),
            exec_id: exec.to_string(),
            ..Default::default()
        };
        let answer = self.call("Delete", &request, self.limit()).await;
        let answer: wire::DeleteResponse =
            self.explain(answer, Some(exec), &[Status::Created, Status::Stopped]).await?;
        self.seen_mut().execs.remove(exec);
        Ok(convert::deleted_from_wire(&answer))
    }

    /// Signals init or an exec, or all processes of the container.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn kill(&self, exec: Option<&Id>, signal: u32, all: bool) -> Result<()> {
        let request = wire::KillRequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            signal,
            all,
            ..Default::default()
        };
        self.tell("Kill", &request).await
    }

    /// Adds a process; it runs after [`Task::start`].
    ///
    /// # Errors
    /// `AlreadyExists` for the id, `FailedPrecondition` when the container does
    /// not run.
    pub async fn exec(&self, request: ExecProcess) -> Result<()> {
        let exec = request.exec_id.clone();
        let request = convert::exec_to_wire(self.id(), request);
        let answer = self.tell("Exec", &request).await;
        self.explain(answer, None, &[Status::Created, Status::Running]).await?;
        self.seen_mut().execs.insert(exec, SeenProcess::default());
        Ok(())
    }

    /// Sets the size of the terminal, in columns and rows.
    ///
    /// # Errors
    /// `NotFound`, and what the shim says of a process without a terminal.
    pub async fn resize_pty(&self, exec: Option<&Id>, width: u32, height: u32) -> Result<()> {
        let request = wire::ResizePtyRequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            width,
            height,
            ..Default::default()
        };
        self.tell("ResizePty", &request).await
    }

    /// Closes standard input.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn close_io(&self, exec: Option<&Id>) -> Result<()> {
        let request = wire::CloseIORequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            stdin: true,
            ..Default::default()
        };
        self.tell("CloseIO", &request).await
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `FailedPrecondition` when it does not run.
    pub async fn pause(&self) -> Result<()> {
        let request = wire::PauseRequest { id: self.id().to_string(), ..Default::default() };
        let answer = self.tell("Pause", &request).await;
        self.explain(answer, None, &[Status::Running]).await
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not paused.
    pub async fn resume(&self) -> Result<()> {
        let request = wire::ResumeRequest { id: self.id().to_string(), ..Default::default() };
        let answer = self.tell("Resume", &request).await;
        self.explain(answer, None, &[Status::Paused, Status::Pausing]).await
    }

    /// The kernel processes in the container.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pids(&self) -> Result<Vec<ProcessInfo>> {
        let request = wire::PidsRequest { id: self.id().to_string(), ..Default::default() };
        Ok(convert::pids_from_wire(self.call("Pids", &request, self.limit()).await?))
    }

    /// Writes a checkpoint image to `path`.
    ///
    /// # Errors
    /// What the shim says.
    pub async fn checkpoint(&self, path: &Path, options: Option<Any>) -> Result<()> {
        let request = wire::CheckpointTaskRequest {
            id: self.id().to_string(),
            path: convert::utf8(path)?,
            options: options.map(convert::any_to_wire).into(),
            ..Default::default()
        };
        self.tell("Checkpoint", &request).await
    }

    /// Sets new limits: OCI Linux resources as JSON in an `Any`.
    ///
    /// # Errors
    /// What the shim says.
    pub async fn update(
        &self,
        resources: Any,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        let request = wire::UpdateTaskRequest {
            id: self.id().to_string(),
            resources: MessageField::some(convert::any_to_wire(resources)),
            annotations: annotations.into_iter().collect(),
            ..Default::default()
        };
        self.tell("Update", &request).await
    }

    /// Metrics of the container's cgroup.
    ///
    /// # Errors
    /// `NotFound`, and what the shim says.
    pub async fn stats(&self) -> Result<Any> {
        let request = wire::StatsRequest { id: self.id().to_string(), ..Default::default() };
        let answer: wire::StatsResponse = self.call("Stats", &request, self.limit()).await?;
        Ok(convert::any_from_wire(answer.stats.unwrap_or_default()))
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
                    self.seen_mut().process(exec).exit = Some(exit);
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

    fn seen_exit(&self, exec: Option<&Id>) -> Option<Exit> {
        let seen = self.seen_mut();
        match exec {
            None => seen.init.exit,
            Some(exec) => seen.execs.get(exec).and_then(|process| process.exit),
        }
    }

    /// A request whose answer is empty.
    async fn tell<Q: Message>(&self, method: &'static str, request: &Q) -> Result<()> {
        self.call::<Q, Empty>(method, request, self.limit()).await.map(drop)
    }

    async fn call<Q: Message, R: Message>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Duration,
    ) -> Result<R> {
        let connection = self.connection()?;
        match connection.task(method, request, Some(limit)).await {
            // Was it the end of the shim? Then there is no such task any more.
            Err(lost) if connection.is_closed() => {
                let timeouts = &self.shared.config.timeouts;
                let limit = timeouts.load + timeouts.cleanup;
                match tokio::time::timeout(limit, self.verdict(&connection)).await {
                    Ok(Some(Life::Died(_) | Life::Deleted)) => Err(self.gone()),
                    _ => Err(lost),
                }
            }
            answer => answer,
        }
    }

    /// Gives an error that has no class the one that a wrong state deserves.
    /// Shims refuse in many words, but the state speaks for itself.
    async fn explain<T>(
        &self,
        answer: Result<T>,
        exec: Option<&Id>,
        allowed: &[Status],
    ) -> Result<T> {
        let error = match answer {
            Err(e) if e.kind() == ErrorKind::Unknown => e,
            other => return other,
        };
        match self.state(exec).await {
            Ok(process) if process.status == Status::Unknown => Err(error),
            Ok(process) if !allowed.contains(&process.status) => {
                Err(error.with_kind(ErrorKind::FailedPrecondition))
            }
            _ => Err(error),
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

    /// The shim was found again.
    pub(crate) fn revive(&self, connection: Arc<Connection>) {
        self.life.send_replace(Life::Live(connection));
    }

    /// The shim is dead, and cleaned up.
    pub(crate) fn die(&self, obituary: Obituary) {
        self.end_log();
        self.life.send_replace(Life::Died(Arc::new(obituary)));
    }

    fn end_log(&self) {
        if let Some(log) = &self.log {
            log.abort();
        }
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
