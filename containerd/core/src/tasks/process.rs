//! What is asked of one task or of one of its processes.

use std::collections::BTreeMap;

use runtime_v2::{Any, Deleted, ExecProcess, Exit, Process, ProcessInfo, Task};
use shim_protocol::{Context, Result};

use super::{Target, Tasks, starts::UnderWay};

impl Tasks {
    /// Starts init or an exec; answers its pid. A restore goes on if the caller
    /// goes away.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it was started before.
    pub async fn start(&self, target: &Target) -> Result<u32> {
        let task = self.of(target)?;
        // How long a restore takes is nobody's guess: it keeps no other from starting.
        let under_way = match target.exec.is_none() && task.is_to_be_restored() {
            true => UnderWay::beside_others(),
            false => self.starts.begin().await,
        };
        let pid = task.start(target.exec.as_ref()).await.context("start", target)?;
        if target.exec.is_none() {
            self.starts.started(&target.namespace, &target.container, &under_way);
        }
        Ok(pid)
    }

    /// Deletes a task that has ended or was not started: its container, its
    /// shim and its bundle. One that is being made is waited for: whoever asked
    /// for it may have gone away. Goes on if the caller goes away.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it runs; `Unavailable` when it cannot
    /// be told whether there is one.
    pub async fn delete(&self, target: &Target) -> Result<Deleted> {
        let task = self.manager.get_when_made(&target.namespace, &target.container).await?;
        task.delete().await.context("delete", target)
    }

    /// Deletes an exec that has ended or was not started. Without an exec in
    /// `target` it is the task's init that is deleted, with the task.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it runs.
    pub async fn delete_process(&self, target: &Target) -> Result<Deleted> {
        let Some(exec) = &target.exec else { return self.delete(target).await };
        let task = self.of(target)?;
        task.delete_exec(exec).await.context("delete", target)
    }

    /// The state of init or an exec.
    ///
    /// # Errors
    /// `NotFound`; `DeadlineExceeded` when the shim does not answer.
    pub async fn get(&self, target: &Target) -> Result<Process> {
        let task = self.of(target)?;
        task.state(target.exec.as_ref()).await.context("state of", target)
    }

    /// Signals init or an exec; with `all`, every process of the container.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn kill(&self, target: &Target, signal: u32, all: bool) -> Result<()> {
        let task = self.of(target)?;
        task.kill(target.exec.as_ref(), signal, all).await.context("kill", target)
    }

    /// Adds a process to a task; [`start`](Self::start) runs it. The exec in
    /// `target` is not looked at: `request` has the new one's id.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` for the exec's id; `FailedPrecondition` when
    /// the container does not run.
    pub async fn exec(&self, target: &Target, request: ExecProcess) -> Result<()> {
        let task = self.of(target)?;
        task.exec(request).await.context("exec in", target)
    }

    /// Sets the size of a terminal, in columns and rows.
    ///
    /// # Errors
    /// `NotFound`, and what the shim says of a process without a terminal.
    pub async fn resize_pty(&self, target: &Target, width: u32, height: u32) -> Result<()> {
        let task = self.of(target)?;
        task.resize_pty(target.exec.as_ref(), width, height).await.context("resize", target)
    }

    /// Closes standard input.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn close_io(&self, target: &Target) -> Result<()> {
        let task = self.of(target)?;
        task.close_io(target.exec.as_ref()).await.context("close standard input of", target)
    }

    /// Freezes all processes of a task.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run.
    pub async fn pause(&self, target: &Target) -> Result<()> {
        self.of(target)?.pause().await.context("pause", target)
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is not paused.
    pub async fn resume(&self, target: &Target) -> Result<()> {
        self.of(target)?.resume().await.context("resume", target)
    }

    /// The kernel processes in a container.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn list_pids(&self, target: &Target) -> Result<Vec<ProcessInfo>> {
        self.of(target)?.pids().await.context("list processes of", target)
    }

    /// Sets new limits: most often OCI Linux resources as JSON.
    ///
    /// # Errors
    /// `NotFound`, and what the shim says.
    pub async fn update(
        &self,
        target: &Target,
        resources: Any,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        self.of(target)?.update(resources, annotations).await.context("update", target)
    }

    /// Waits until init or an exec has ended; answers at once if it has.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the daemon shuts down.
    pub async fn wait(&self, target: &Target) -> Result<Exit> {
        let task = self.of(target)?;
        task.wait(target.exec.as_ref()).await.context("wait for", target)
    }

    /// The task that there is now: what is then asked of it is asked of no other
    /// that takes its id meanwhile.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn of(&self, target: &Target) -> Result<std::sync::Arc<Task>> {
        self.task(&target.namespace, &target.container)
    }
}
