//! A container and its processes, driven by the plain gRPC API.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use containerd_api::{
    services::{
        containers::v1::{Container as Record, CreateContainerRequest, DeleteContainerRequest},
        tasks::v1::{
            CloseIoRequest, CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest,
            ExecProcessRequest, GetRequest, KillRequest, ListPidsRequest, PauseTaskRequest,
            ResizePtyRequest, ResumeTaskRequest, StartRequest, UpdateTaskRequest, WaitRequest,
        },
    },
    types::Mount,
    v1::types::Process as Info,
};
use nix::sys::signal::Signal;
use prost_types::Timestamp;
use serde_json::Value;

use crate::{Api, Spec, Stdio, spec, time::within};

pub use containerd_api::v1::types::Status;

/// A container record; its task is a [`Process`].
#[derive(Clone)]
pub struct Container {
    api: Api,
    id: String,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Exit code, or 128 plus the number of a signal.
    pub status: u32,
    /// When.
    pub at: Option<Timestamp>,
}

/// Init of a container, or an exec.
pub struct Process {
    api: Api,
    /// The container's id.
    pub container: String,
    /// Empty for init.
    pub exec: String,
    /// As the daemon said it at the start (for init: at creation).
    pub pid: u32,
    /// Our ends of its streams.
    pub stdio: Stdio,
}

impl Container {
    /// Writes a container record.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn create(
        api: &Api,
        id: &str,
        spec: &Spec,
        labels: BTreeMap<String, String>,
    ) -> Result<Self> {
        let record = Record {
            id: id.into(),
            labels,
            runtime: Some(spec.runtime.clone()),
            spec: Some(spec.to_any()),
            ..Record::default()
        };
        let request = CreateContainerRequest { container: Some(record) };
        within("create container", api.containers().create(request))
            .await?
            .with_context(|| format!("create container {id}"))?;
        Ok(Self { api: api.clone(), id: id.into() })
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Creates the task; its program does not run yet.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn task(
        &self,
        terminal: bool,
        rootfs: Vec<Mount>,
        stdio: Stdio,
    ) -> Result<Process, tonic::Status> {
        let request = CreateTaskRequest {
            container_id: self.id.clone(),
            rootfs,
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal,
            ..CreateTaskRequest::default()
        };
        let pid = self.api.tasks().create(request).await?.into_inner().pid;
        Ok(Process::new(&self.api, &self.id, "", pid, stdio))
    }

    /// Removes the record.
    ///
    /// # Errors
    /// The daemon refuses, for instance because a task is left.
    pub async fn delete(&self) -> Result<(), tonic::Status> {
        let request = DeleteContainerRequest { id: self.id.clone() };
        self.api.containers().delete(request).await.map(drop)
    }
}

/// Calls give the daemon's own answer, so that a test can look at the code.
impl Process {
    pub(crate) fn new(api: &Api, container: &str, exec: &str, pid: u32, stdio: Stdio) -> Self {
        Self { api: api.clone(), container: container.into(), exec: exec.into(), pid, stdio }
    }

    /// A handle of the init of a container, which may or may not exist.
    pub fn of(api: &Api, container: &str) -> Self {
        Self::new(api, container, "", 0, Stdio::null())
    }

    /// Lets the program run.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn start(&mut self) -> Result<(), tonic::Status> {
        let request =
            StartRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        self.pid = self.api.tasks().start(request).await?.into_inner().pid;
        Ok(())
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn wait(&self) -> Result<Exit> {
        let request =
            WaitRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let mut tasks = self.api.tasks();
        let answer = within("exit of a process", tasks.wait(request)).await??.into_inner();
        Ok(Exit { status: answer.exit_status, at: answer.exited_at })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn kill(&self, signal: Signal) -> Result<(), tonic::Status> {
        self.send_signal(signal, false).await
    }

    /// Sends a signal to all processes of the container.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn kill_all(&self, signal: Signal) -> Result<(), tonic::Status> {
        self.send_signal(signal, true).await
    }

    async fn send_signal(&self, signal: Signal, all: bool) -> Result<(), tonic::Status> {
        let request = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            signal: signal as u32,
            all,
        };
        self.api.tasks().kill(request).await.map(drop)
    }

    /// Removes the process: the exec, or the task with its shim.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn delete(&self) -> Result<Exit, tonic::Status> {
        let mut tasks = self.api.tasks();
        let container_id = self.container.clone();
        let answer = if self.exec.is_empty() {
            tasks.delete(DeleteTaskRequest { container_id }).await?
        } else {
            let request = DeleteProcessRequest { container_id, exec_id: self.exec.clone() };
            tasks.delete_process(request).await?
        };
        let answer = answer.into_inner();
        Ok(Exit { status: answer.exit_status, at: answer.exited_at })
    }

    /// What the daemon knows about the process.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn state(&self) -> Result<Info, tonic::Status> {
        let request =
            GetRequest { container_id: self.container.clone(), exec_id: self.exec.clone() };
        let answer = self.api.tasks().get(request).await?.into_inner();
        answer.process.ok_or_else(|| tonic::Status::internal("an answer without a process"))
    }

    /// Describes an exec that runs `script`; [`start`](Self::start) starts it.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn exec(
        &self,
        id: &str,
        script: &str,
        terminal: bool,
        stdio: Stdio,
    ) -> Result<Self, tonic::Status> {
        self.exec_process(id, &["/bin/sh", "-c", script], terminal, stdio).await
    }

    /// [`exec`](Self::exec) of any program.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn exec_args(
        &self,
        id: &str,
        arguments: &[&str],
        stdio: Stdio,
    ) -> Result<Self, tonic::Status> {
        self.exec_process(id, arguments, false, stdio).await
    }

    async fn exec_process(
        &self,
        id: &str,
        arguments: &[&str],
        terminal: bool,
        stdio: Stdio,
    ) -> Result<Self, tonic::Status> {
        let request = ExecProcessRequest {
            container_id: self.container.clone(),
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal,
            spec: Some(spec::exec(arguments, terminal)),
            exec_id: id.into(),
        };
        self.api.tasks().exec(request).await?;
        Ok(Self::new(&self.api, &self.container, id, 0, stdio))
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn pause(&self) -> Result<(), tonic::Status> {
        let request = PauseTaskRequest { container_id: self.container.clone() };
        self.api.tasks().pause(request).await.map(drop)
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn resume(&self) -> Result<(), tonic::Status> {
        let request = ResumeTaskRequest { container_id: self.container.clone() };
        self.api.tasks().resume(request).await.map(drop)
    }

    /// The pids in the container, sorted.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn pids(&self) -> Result<Vec<u32>, tonic::Status> {
        let request = ListPidsRequest { container_id: self.container.clone() };
        let answer = self.api.tasks().list_pids(request).await?.into_inner();
        let mut pids: Vec<_> = answer.processes.into_iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Changes resource limits.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn update(&self, limits: &Value) -> Result<(), tonic::Status> {
        let request = UpdateTaskRequest {
            container_id: self.container.clone(),
            resources: Some(spec::resources(limits)),
            ..UpdateTaskRequest::default()
        };
        self.api.tasks().update(request).await.map(drop)
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn resize(&self, width: u32, height: u32) -> Result<(), tonic::Status> {
        let request = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            width,
            height,
        };
        self.api.tasks().resize_pty(request).await.map(drop)
    }

    /// Closes standard input.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn close_stdin(&self) -> Result<(), tonic::Status> {
        let request = CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
        };
        self.api.tasks().close_io(request).await.map(drop)
    }
}
