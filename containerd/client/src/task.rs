//! Tasks: containers that live.

use std::collections::BTreeMap;

use containerd_api::{
    runc::v1::ProcessDetails,
    services::tasks::v1::{
        CheckpointTaskRequest, CreateTaskRequest, ExecProcessRequest, ListPidsRequest,
        ListTasksRequest, MetricsRequest, PauseTaskRequest, ResumeTaskRequest, UpdateTaskRequest,
    },
    to_any,
    types::{Descriptor, Mount},
};
use prost_types::Any;
use serde::Serialize;

use crate::{
    Container, Context, Error, ErrorKind, Exit, Metrics, Namespace, Process, Result, State, Stdio,
    spec::{self, PROCESS_URL, RESOURCES_URL},
    time,
};

/// How to freeze a task onto disk, with the runc shim.
pub use containerd_api::runc::v1::CheckpointOptions;

/// A mount that makes a root filesystem: `mount(2)`'s arguments.
pub use containerd_mounts::Mount as RootMount;

/// A task to be made.
#[derive(Clone, Debug, Default)]
pub struct NewTask {
    stdio: Stdio,
    rootfs: Vec<RootMount>,
    options: Option<Any>,
    checkpoint: Option<Descriptor>,
}

impl NewTask {
    /// A task whose init process has these standard streams.
    pub fn new(stdio: Stdio) -> Self {
        Self { stdio, ..Self::default() }
    }

    /// Mounts that make its root filesystem, in place of the container's
    /// snapshot. A spec that names a folder needs none.
    #[must_use]
    pub fn rootfs(mut self, mounts: impl IntoIterator<Item = RootMount>) -> Self {
        self.rootfs.extend(mounts);
        self
    }

    /// Options of the runtime, in place of the container's.
    #[must_use]
    pub fn options(mut self, options: Any) -> Self {
        self.options = Some(options);
        self
    }

    /// The checkpoint that it goes on from, in the content store.
    #[must_use]
    pub fn checkpoint(mut self, checkpoint: Descriptor) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }
}

/// A process to be added to a task.
#[derive(Clone, Debug)]
pub struct NewExec {
    id: String,
    spec: Any,
    stdio: Stdio,
}

impl NewExec {
    /// The process `id`: an OCI process, such as the spec's with other
    /// arguments, and its standard streams.
    ///
    /// # Errors
    /// `InvalidArgument` when it cannot be made into JSON.
    pub fn new(id: impl Into<String>, process: &impl Serialize, stdio: Stdio) -> Result<Self> {
        Ok(Self { id: id.into(), spec: spec::to_any(PROCESS_URL, process)?, stdio })
    }
}

/// A process in a task's cgroup.
#[derive(Clone, Debug, PartialEq)]
pub struct PidInfo {
    /// Its id in the host's pid namespace.
    pub pid: u32,
    /// What the shim knows of it.
    pub info: Option<Any>,
}

impl PidInfo {
    /// The exec that the process is, if the runc shim says that it is one.
    pub fn exec_id(&self) -> Option<String> {
        let details: ProcessDetails = containerd_api::from_any(self.info.as_ref()?).ok()?;
        Some(details.exec_id)
    }
}

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// The container.
    pub id: String,
    /// State of its init process.
    pub init: State,
}

impl Container {
    /// Makes the container's task: namespaces, mounts, and an init process that
    /// waits to be started.
    ///
    /// # Errors
    /// `AlreadyExists` when it has one; `NotFound` when the container is gone;
    /// `FailedPrecondition` when its runtime is not installed, to which Go's
    /// daemon answers `Unknown`; those of the shim.
    pub async fn create_task(&self, task: NewTask) -> Result<Task> {
        let mut rootfs = task.rootfs;
        let record = self.record();
        if rootfs.is_empty() && !record.snapshot_key.is_empty() {
            let snapshots = self.namespace().snapshots(&record.snapshotter);
            rootfs = snapshots.mounts(&record.snapshot_key).await?;
        }
        let rootfs = rootfs.into_iter().map(|mount| Mount {
            r#type: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        });
        let request = self.namespace().request(CreateTaskRequest {
            container_id: self.id().into(),
            rootfs: rootfs.collect(),
            stdin: task.stdio.stdin,
            stdout: task.stdio.stdout,
            stderr: task.stdio.stderr,
            terminal: task.stdio.terminal,
            checkpoint: task.checkpoint,
            options: task.options,
            ..CreateTaskRequest::default()
        })?;
        let response = self
            .namespace()
            .tasks_stub()
            .create(request)
            .await
            .context("create task", self.id())?;
        let init = Process::init(self.namespace(), self.id());
        Ok(Task { init, pid: response.into_inner().pid })
    }

    /// The container's task.
    ///
    /// # Errors
    /// `NotFound` when it has none.
    pub async fn task(&self) -> Result<Task> {
        self.namespace().task(self.id()).await
    }
}

impl Namespace {
    /// The task of the container `id`.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn task(&self, id: &str) -> Result<Task> {
        let init = Process::init(self, id);
        let pid = init.state().await?.pid;
        Ok(Task { init, pid })
    }

    /// All tasks of the namespace.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn tasks(&self) -> Result<Vec<TaskState>> {
        let request = self.request(ListTasksRequest::default())?;
        let response = self.tasks_stub().list(request).await.context("list tasks", "")?;
        let tasks = response.into_inner().tasks.into_iter();
        // The wire's process names the task by `id`; `container_id` is empty.
        Ok(tasks.map(|wire| TaskState { id: wire.id.clone(), init: wire.into() }).collect())
    }
}

/// A container that lives: its init process, and what concerns all of its
/// processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Task {
    init: Process,
    pid: u32,
}

impl Task {
    /// The container.
    pub fn id(&self) -> &str {
        self.init.container_id()
    }

    /// The init process's id in the host's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The init process.
    pub fn init(&self) -> &Process {
        &self.init
    }

    fn namespace(&self) -> &Namespace {
        self.init.namespace()
    }

    /// State of the init process.
    ///
    /// # Errors
    /// As [`Process::state`].
    pub async fn state(&self) -> Result<State> {
        self.init.state().await
    }

    /// Starts the init process.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub async fn start(&self) -> Result<()> {
        self.init.start().await?;
        Ok(())
    }

    /// Waits until the init process has ended.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub async fn wait(&self) -> Result<Exit> {
        self.init.wait().await
    }

    /// Sends the init process a signal, by the signal's number.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub async fn kill(&self, signal: u32) -> Result<()> {
        self.init.kill(signal).await
    }

    /// Sends all processes of the task a signal.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub async fn kill_all(&self, signal: u32) -> Result<()> {
        self.init.kill_request(signal, true).await
    }

    /// Deletes the task and returns how its init process ended.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it still runs.
    pub async fn delete(&self) -> Result<Exit> {
        self.init.delete().await
    }

    /// Adds a process; it waits to be started.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` when the id is taken; `FailedPrecondition`
    /// when the task does not run.
    pub async fn exec(&self, exec: NewExec) -> Result<Process> {
        let request = self.namespace().request(ExecProcessRequest {
            container_id: self.id().into(),
            stdin: exec.stdio.stdin,
            stdout: exec.stdio.stdout,
            stderr: exec.stdio.stderr,
            terminal: exec.stdio.terminal,
            spec: Some(exec.spec),
            exec_id: exec.id.clone(),
        })?;
        self.namespace()
            .tasks_stub()
            .exec(request)
            .await
            .context("exec", format_args!("{} in {}", exec.id, self.id()))?;
        Ok(Process::exec(self.namespace(), self.id(), &exec.id))
    }

    /// A process that was added before. Nothing is asked of the daemon yet.
    pub fn process(&self, exec_id: &str) -> Process {
        Process::exec(self.namespace(), self.id(), exec_id)
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when the task does not run.
    pub async fn pause(&self) -> Result<()> {
        let request =
            self.namespace().request(PauseTaskRequest { container_id: self.id().into() })?;
        self.namespace().tasks_stub().pause(request).await.context("pause", self.id())?;
        Ok(())
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when the task is not paused.
    pub async fn resume(&self) -> Result<()> {
        let request =
            self.namespace().request(ResumeTaskRequest { container_id: self.id().into() })?;
        self.namespace().tasks_stub().resume(request).await.context("resume", self.id())?;
        Ok(())
    }

    /// All processes of the task.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when the task does not run.
    pub async fn pids(&self) -> Result<Vec<PidInfo>> {
        let request =
            self.namespace().request(ListPidsRequest { container_id: self.id().into() })?;
        let response = self
            .namespace()
            .tasks_stub()
            .list_pids(request)
            .await
            .context("list pids of", self.id())?;
        let processes = response.into_inner().processes.into_iter();
        Ok(processes.map(|p| PidInfo { pid: p.pid, info: p.info }).collect())
    }

    /// What the task uses.
    ///
    /// # Errors
    /// `NotFound` when it does not run.
    pub async fn metrics(&self) -> Result<Metrics> {
        let filters = vec![format!("id=={}", self.id())];
        let request = self.namespace().request(MetricsRequest { filters })?;
        let response = self
            .namespace()
            .tasks_stub()
            .metrics(request)
            .await
            .context("metrics of", self.id())?;
        let metric = response.into_inner().metrics.into_iter().next().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no metrics of task {}", self.id()))
        })?;
        Ok(Metrics {
            id: metric.id,
            timestamp: time::from_wire(metric.timestamp),
            data: metric.data.unwrap_or_default(),
        })
    }

    /// Writes the task to disk: to the folder that the options name, or else to
    /// the content store, and then answers what is there. [`Task::checkpoint`]
    /// makes an image of it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when the task does not run, or CRIU is
    /// missing or too old; `Unimplemented` when its runtime cannot do it; those
    /// of the runtime.
    pub async fn write_checkpoint(&self, options: &CheckpointOptions) -> Result<Vec<Descriptor>> {
        let request = self.namespace().request(CheckpointTaskRequest {
            container_id: self.id().into(),
            parent_checkpoint: String::new(),
            options: Some(to_any(options)),
        })?;
        let response = self
            .namespace()
            .tasks_stub()
            .checkpoint(request)
            .await
            .context("checkpoint", self.id())?;
        Ok(response.into_inner().descriptors)
    }

    /// Changes the limits of a running task: OCI `LinuxResources`.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when the resources are no JSON.
    pub async fn update(
        &self,
        resources: &impl Serialize,
        annotations: BTreeMap<String, String>,
    ) -> Result<()> {
        let request = self.namespace().request(UpdateTaskRequest {
            container_id: self.id().into(),
            resources: Some(spec::to_any(RESOURCES_URL, resources)?),
            annotations,
        })?;
        self.namespace().tasks_stub().update(request).await.context("update", self.id())?;
        Ok(())
    }
}
