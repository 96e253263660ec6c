//! One task, and what can be asked of it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use shim_protocol::{Error, Id, Result};

use crate::{Any, Deleted, ExecProcess, Exit, Process, ProcessInfo};

/// The task of a container, held by a shim.
pub struct Task {
    namespace: Id,
    id: Id,
    pid: u32,
}

impl Task {
    /// Namespace of the container.
    pub fn namespace(&self) -> &Id {
        &self.namespace
    }

    /// Id of the container and of its task.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Pid of the container's init process on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The shim binary.
    pub fn runtime(&self) -> &Path {
        Path::new("")
    }

    /// Folder of the bundle.
    pub fn bundle(&self) -> &Path {
        Path::new("")
    }

    /// Asks the shim for the state of init or an exec.
    ///
    /// # Errors
    /// `NotFound` when the exec, or the task, does not exist (any more).
    pub async fn state(&self, exec: Option<&Id>) -> Result<Process> {
        let _ = (exec,);
        Err(Error::unimplemented("state"))
    }

    /// Starts init or an exec; answers its pid.
    ///
    /// # Errors
    /// `NotFound`, and `FailedPrecondition` when it was started before.
    pub async fn start(&self, exec: Option<&Id>) -> Result<u32> {
        let _ = (exec,);
        Err(Error::unimplemented("start"))
    }

    /// Deletes the task: container, shim (unless it has other tasks) and bundle.
    /// Goes on if the caller goes away.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs, `NotFound` when it was deleted.
    pub async fn delete(self: &Arc<Self>) -> Result<Deleted> {
        let _ = ();
        Err(Error::unimplemented("delete"))
    }

    /// Deletes an exec that has ended or was not started.
    ///
    /// # Errors
    /// `FailedPrecondition` while it runs, `NotFound`.
    pub async fn delete_exec(&self, exec: &Id) -> Result<Deleted> {
        let _ = (exec,);
        Err(Error::unimplemented("delete_exec"))
    }

    /// Signals init or an exec, or all processes of the container.
    ///
    /// # Errors
    /// `NotFound` when the process has ended.
    pub async fn kill(&self, exec: Option<&Id>, signal: u32, all: bool) -> Result<()> {
        let _ = (exec, signal, all);
        Err(Error::unimplemented("kill"))
    }

    /// Adds a process; it runs after [`Task::start`].
    ///
    /// # Errors
    /// `AlreadyExists` for the id, `FailedPrecondition` when the container does not run.
    pub async fn exec(&self, request: ExecProcess) -> Result<()> {
        let _ = (request,);
        Err(Error::unimplemented("exec"))
    }

    /// Sets the size of the terminal, in columns and rows.
    ///
    /// # Errors
    /// `NotFound`, and what the shim says of a process without a terminal.
    pub async fn resize_pty(&self, exec: Option<&Id>, width: u32, height: u32) -> Result<()> {
        let _ = (exec, width, height);
        Err(Error::unimplemented("resize_pty"))
    }

    /// Closes standard input.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn close_io(&self, exec: Option<&Id>) -> Result<()> {
        let _ = (exec,);
        Err(Error::unimplemented("close_io"))
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `FailedPrecondition` when it does not run.
    pub async fn pause(&self) -> Result<()> {
        let _ = ();
        Err(Error::unimplemented("pause"))
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not paused.
    pub async fn resume(&self) -> Result<()> {
        let _ = ();
        Err(Error::unimplemented("resume"))
    }

    /// The kernel processes in the container.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pids(&self) -> Result<Vec<ProcessInfo>> {
        let _ = ();
        Err(Error::unimplemented("pids"))
    }

    /// Writes a checkpoint image to `path`.
    ///
    /// # Errors
    /// What the shim says.
    pub async fn checkpoint(&self, path: &Path, options: Option<Any>) -> Result<()> {
        let _ = (path, options);
        Err(Error::unimplemented("checkpoint"))
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
        let _ = (resources, annotations);
        Err(Error::unimplemented("update"))
    }

    /// Metrics of the container's cgroup.
    ///
    /// # Errors
    /// `NotFound`, and what the shim says.
    pub async fn stats(&self) -> Result<Any> {
        let _ = ();
        Err(Error::unimplemented("stats"))
    }

    /// Waits until init or an exec has ended, however long that takes. The death
    /// of the shim counts as an end.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the daemon shuts down.
    pub async fn wait(&self, exec: Option<&Id>) -> Result<Exit> {
        let _ = (exec,);
        Err(Error::unimplemented("wait"))
    }
}
