//! The ttrpc adapter: decodes a request, calls the task code, encodes the
//! answer. No decision is taken here.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use containerd_mounts::Mount;
use protobuf::{
    EnumOrUnknown, MessageField,
    well_known_types::{any::Any, empty::Empty},
};
use shim_protocol::{
    Error, Id, Result, any,
    proto::{
        outbox::{FlushRequest, FlushResponse},
        outbox_ttrpc::{self, Outbox as OutboxApi},
        runc_options::{CheckpointOptions, ProcessDetails},
        task_types::{ProcessInfo, Status},
        task_v2::{
            CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse,
            CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
            ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
            ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse,
            StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest,
            WaitRequest, WaitResponse,
        },
        task_v2_ttrpc::{self, Task as TaskApi},
        types,
    },
    rpc::{TASK_SERVICE_V2, TASK_SERVICE_V3},
};
use ttrpc::r#async::{Service, TtrpcContext};

use crate::{
    events::{Outbox, daemon::Endpoint},
    io::Stdio,
    options::RuntimeOptions,
    runtime::Checkpoint,
    task::{Create, ExecSpec, Tasks, announce::timestamp, state::State},
};

/// All services of a shim, by name. Both versions of the task service are one:
/// they differ in nothing but the name.
pub fn services(
    tasks: &Arc<Tasks>,
    outbox: &Arc<Outbox>,
    daemon: &Arc<Endpoint>,
) -> HashMap<String, Service> {
    let v2 = task_v2_ttrpc::create_task(Arc::new(TaskService { tasks: Arc::clone(tasks) }));
    let v3 = task_v2_ttrpc::create_task(Arc::new(TaskService { tasks: Arc::clone(tasks) }));
    let named = |name: &str, services: HashMap<String, Service>| {
        let name = name.to_owned();
        services.into_values().map(move |service| (name.clone(), service))
    };
    let mut services = outbox_ttrpc::create_outbox(Arc::new(OutboxService {
        outbox: Arc::clone(outbox),
        daemon: Arc::clone(daemon),
    }));
    services.extend(named(TASK_SERVICE_V2, v2));
    services.extend(named(TASK_SERVICE_V3, v3));
    services
}

struct TaskService {
    tasks: Arc<Tasks>,
}

struct OutboxService {
    outbox: Arc<Outbox>,
    daemon: Arc<Endpoint>,
}

/// An empty exec id names init.
fn exec_id(id: &str) -> Result<Option<Id>> {
    if id.is_empty() { Ok(None) } else { Id::new("exec id", id).map(Some) }
}

fn path(text: String) -> Option<std::path::PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

impl TryFrom<CreateTaskRequest> for Create {
    type Error = Error;

    fn try_from(request: CreateTaskRequest) -> Result<Self> {
        if request.bundle.is_empty() {
            return Err(Error::invalid("a container needs a bundle"));
        }
        Ok(Self {
            id: Id::new("container id", &request.id)?,
            bundle: request.bundle.into(),
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio: Stdio {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            // Images name the ones that they build upon themselves.
            restore: path(request.checkpoint),
            options: RuntimeOptions::from_any(request.options.as_ref())?,
        })
    }
}

fn mount(wire: types::Mount) -> Mount {
    Mount { kind: wire.type_, source: wire.source, target: wire.target, options: wire.options }
}

impl From<CheckpointOptions> for Checkpoint {
    fn from(options: CheckpointOptions) -> Self {
        Self {
            image_path: options.image_path.into(),
            work_path: path(options.work_path),
            parent_path: path(options.parent_path),
            exit: options.exit,
            open_tcp: options.open_tcp,
            external_unix_sockets: options.external_unix_sockets,
            terminal: options.terminal,
            file_locks: options.file_locks,
            empty_namespaces: options.empty_namespaces,
            cgroups_mode: options.cgroups_mode,
        }
    }
}

fn checkpoint(path: String, options: Option<&Any>) -> Result<Checkpoint> {
    let options = options.filter(|any| !any.type_url.is_empty());
    let options = options.map(any::unpack::<CheckpointOptions>).transpose()?;
    let mut checkpoint = Checkpoint::from(options.unwrap_or_default());
    if !path.is_empty() {
        checkpoint.image_path = path.into();
    }
    Ok(checkpoint)
}

impl From<State> for Status {
    fn from(state: State) -> Self {
        match state {
            State::Prepared | State::Created | State::Starting(_) => Self::CREATED,
            State::Running => Self::RUNNING,
            State::Pausing => Self::PAUSING,
            State::Paused | State::Resuming => Self::PAUSED,
            State::Stopped | State::Deleting(_) => Self::STOPPED,
        }
    }
}

#[async_trait]
impl TaskApi for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.tasks.get(&request.id)?;
        let exec = exec_id(&request.exec_id)?;
        let process = container.snapshot(exec.as_ref())?;
        let stdio = container.stdio_of(exec.as_ref())?;
        Ok(StateResponse {
            id: exec.as_deref().unwrap_or(&request.id).to_owned(),
            bundle: container.bundle().path().to_string_lossy().into_owned(),
            pid: process.pid,
            status: EnumOrUnknown::new(process.state.into()),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            exit_status: process.exit.map_or(0, |exit| exit.status),
            exited_at: process.exit.map_or_else(MessageField::none, |exit| timestamp(exit.at)),
            exec_id: request.exec_id,
            ..Default::default()
        })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let (tasks, request) = (Arc::clone(&self.tasks), Create::try_from(request)?);
        let container = self.tasks.own(async move { tasks.create(request).await }).await?;
        Ok(CreateTaskResponse { pid: container.pid(), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let container = self.tasks.get(&request.id)?;
        let exec = exec_id(&request.exec_id)?;
        let pid = self.tasks.own(async move { container.start(exec.as_ref()).await }).await?;
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let (tasks, exec) = (Arc::clone(&self.tasks), exec_id(&request.exec_id)?);
        let delete = async move { tasks.delete(&request.id, exec.as_ref()).await };
        let (pid, exit) = self.tasks.own(delete).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map_or_else(MessageField::none, |exit| timestamp(exit.at)),
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let container = self.tasks.get(&request.id)?;
        let id = Id::new("exec id", &request.exec_id)?;
        let process = request.spec.into_option().map(|any| any.value).unwrap_or_default();
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        container.add_exec(&id, ExecSpec { process, stdio })?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exec = exec_id(&request.exec_id)?;
        let exit = self.tasks.get(&request.id)?.wait(exec.as_ref()).await?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.tasks.get(&request.id)?;
        let exec = exec_id(&request.exec_id)?;
        let KillRequest { signal, all, .. } = request;
        let kill = async move { container.kill(exec.as_ref(), signal, all).await };
        self.tasks.own(kill).await?;
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let container = self.tasks.get(&request.id)?;
        self.tasks.own(async move { container.pause().await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let container = self.tasks.get(&request.id)?;
        self.tasks.own(async move { container.resume().await }).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.tasks.get(&request.id)?;
        let checkpoint = checkpoint(request.path, request.options.as_ref())?;
        self.tasks.own(async move { container.checkpoint(checkpoint).await }).await?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.tasks.get(&request.id)?;
        let resources = request.resources.into_option().map(|any| any.value).unwrap_or_default();
        self.tasks.own(async move { container.update(&resources).await }).await?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let exec = exec_id(&request.exec_id)?;
        let container = self.tasks.get(&request.id)?;
        container.resize(exec.as_ref(), request.width, request.height)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let exec = exec_id(&request.exec_id)?;
        let container = self.tasks.get(&request.id)?;
        if request.stdin {
            container.close_stdin(exec.as_ref())?;
        }
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let mut response = PidsResponse::default();
        for (pid, exec) in self.tasks.get(&request.id)?.processes().await? {
            let details = exec.map(|exec| {
                any::pack(&ProcessDetails { exec_id: exec.to_string(), ..Default::default() })
            });
            response.processes.push(ProcessInfo {
                pid,
                info: MessageField::from_option(details.transpose()?),
                ..Default::default()
            });
        }
        Ok(response)
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.tasks.get(&request.id)?.stats().await?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            // A daemon asks this too of a shim that has no container yet.
            task_pid: self.tasks.get(&request.id).map_or(0, |container| container.pid()),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.tasks.shutdown();
        Ok(Empty::new())
    }
}

#[async_trait]
impl OutboxApi for OutboxService {
    async fn flush(&self, _: &TtrpcContext, request: FlushRequest) -> ttrpc::Result<FlushResponse> {
        self.daemon.set(&request.ttrpc_address);
        let delivered = self.outbox.flush().await;
        Ok(FlushResponse { delivered, ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_protocol::ErrorKind;

    #[test]
    fn a_create_request_is_checked() {
        let request = |id: &str, bundle: &str| CreateTaskRequest {
            id: id.into(),
            bundle: bundle.into(),
            ..Default::default()
        };
        for bad in [request("", "/b"), request("../a", "/b"), request("a", "")] {
            let error = Create::try_from(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let create = Create::try_from(request("a", "/b")).unwrap();
        assert_eq!(create.restore, None);
    }

    #[test]
    fn the_path_of_a_checkpoint_request_wins() {
        let options = CheckpointOptions { image_path: "/o".into(), ..Default::default() };
        let options = any::pack(&options).unwrap();
        for (path, expected) in [("", "/o"), ("/p", "/p")] {
            let checkpoint = checkpoint(path.into(), Some(&options)).unwrap();
            assert_eq!(checkpoint.image_path.to_str(), Some(expected));
        }
    }

    #[test]
    fn states_in_the_words_of_the_protocol() {
        for (state, status) in [
            (State::Prepared, Status::CREATED),
            (State::Created, Status::CREATED),
            (State::Running, Status::RUNNING),
            (State::Pausing, Status::PAUSING),
            (State::Paused, Status::PAUSED),
            (State::Resuming, Status::PAUSED),
            (State::Stopped, Status::STOPPED),
        ] {
            assert_eq!(Status::from(state), status);
        }
    }
}
