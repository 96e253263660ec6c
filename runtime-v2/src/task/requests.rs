//! What can be asked of a task's shim: one method per request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use protobuf::{Message, MessageField, well_known_types::empty::Empty};
use shim_protocol::{ErrorKind, Id, Result, proto::task_v2 as wire};

use super::{Life, SeenProcess, Task, name};
use crate::{Any, Deleted, ExecProcess, Process, ProcessInfo, Status, cleanup, convert};

impl Task {
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
        if let Some(exit) = process.exit {
            self.saw_exit(exec, exit);
        }
        Ok(process)
    }

    /// Starts init or an exec; answers its pid. However long that takes, and
    /// whether the caller goes away or not, if it goes on from a checkpoint.
    ///
    /// # Errors
    /// `NotFound`, and `FailedPrecondition` when it was started before.
    pub async fn start(self: &Arc<Self>, exec: Option<&Id>) -> Result<u32> {
        if exec.is_some() || !self.is_to_be_restored() {
            return self.start_process(exec, Some(self.limit())).await;
        }
        let task = self.clone();
        let restore = async move {
            let pid = task.start_process(None, None).await?;
            task.was_restored();
            Ok(pid)
        };
        self.shared.own(restore).await
    }

    async fn start_process(&self, exec: Option<&Id>, limit: Option<Duration>) -> Result<u32> {
        let request = wire::StartRequest {
            id: self.id().to_string(),
            exec_id: name(exec),
            ..Default::default()
        };
        let answer = self.call("Start", &request, limit).await;
        let answer: wire::StartResponse = self.explain(answer, exec, &[Status::Created]).await?;
        let mut seen = self.seen_mut();
        match exec {
            None => seen.init.pid = answer.pid,
            Some(exec) => seen.execs.entry(exec.clone()).or_default().pid = answer.pid,
        }
        Ok(answer.pid)
    }

    /// Deletes an exec that has ended or was not started. Goes on if the caller
    /// goes away.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs, `NotFound`.
    pub async fn delete_exec(self: &Arc<Self>, exec: &Id) -> Result<Deleted> {
        let (task, exec) = (self.clone(), exec.clone());
        self.shared.own(async move { task.delete_exec_to_the_end(&exec).await }).await
    }

    async fn delete_exec_to_the_end(&self, exec: &Id) -> Result<Deleted> {
        let request = wire::DeleteRequest {
            id: self.id().to_string(),
            exec_id: exec.to_string(),
            ..Default::default()
        };
        let answer = self.call("Delete", &request, self.limit()).await;
        let answer: wire::DeleteResponse =
            self.explain(answer, Some(exec), &[Status::Created, Status::Stopped]).await?;
        let gone = convert::deleted_from_wire(&answer);
        if gone.pid != 0 {
            // The shim has it on record no more, and may not have got to tell of it.
            let event = convert::exit_event(self.id(), Some(exec), gone);
            cleanup::announce(&self.shared, &self.bundle, event).await;
        }
        self.seen_mut().execs.remove(exec);
        Ok(gone)
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

    /// A request whose answer is empty.
    async fn tell<Q: Message>(&self, method: &'static str, request: &Q) -> Result<()> {
        self.call::<Q, Empty>(method, request, self.limit()).await.map(drop)
    }

    async fn call<Q: Message, R: Message>(
        &self,
        method: &'static str,
        request: &Q,
        limit: impl Into<Option<Duration>>,
    ) -> Result<R> {
        let connection = self.connection()?;
        match connection.task(method, request, limit.into()).await {
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
    pub(super) async fn explain<T>(
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
}
