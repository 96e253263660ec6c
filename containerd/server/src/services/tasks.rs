//! `containerd.services.tasks.v1.Tasks`.

use std::sync::Arc;

use containerd_api::{services::tasks::v1 as api, types::Metric, v1::types::ProcessInfo};
use containerd_core::tasks::{self, Deleted, ExecProcess, NewCheckpoint, Stdio, Target, Tasks};
use shim_protocol::{Error, Id, Result};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    convert::{
        any_in, any_out, descriptor_in, descriptor_out, exit_out, mount_in, process_out, required,
    },
    headers,
};
use crate::status;

pub(super) struct Service {
    pub(super) tasks: Arc<Tasks>,
    /// Set when the daemon drains: requests that may take for ever end then.
    pub(super) stop: CancellationToken,
}

/// The process that a request is about; an empty exec id is init.
fn target(metadata: &MetadataMap, container: &str, exec: &str) -> Result<Target> {
    let namespace = headers::namespace(metadata)?;
    let container = Id::new("container id", container)?;
    let exec = if exec.is_empty() { None } else { Some(Id::new("exec id", exec)?) };
    Ok(Target { namespace, container, exec })
}

fn create_in(request: Request<api::CreateTaskRequest>) -> Result<tasks::Create> {
    let target = target(request.metadata(), &request.get_ref().container_id, "")?;
    let request = request.into_inner();
    Ok(tasks::Create {
        namespace: target.namespace,
        container: target.container,
        rootfs: request.rootfs.into_iter().map(mount_in).collect(),
        stdio: Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        options: request.options.map(any_in),
        runtime_path: request.runtime_path,
        checkpoint: request.checkpoint.map(descriptor_in).transpose()?,
        task_api_address: request.task_api_address,
    })
}

fn exec_in(request: Request<api::ExecProcessRequest>) -> Result<(Target, ExecProcess)> {
    let target = target(request.metadata(), &request.get_ref().container_id, "")?;
    let request = request.into_inner();
    let process = ExecProcess {
        exec_id: Id::new("exec id", &request.exec_id)?,
        spec: any_in(required("spec", request.spec)?),
        stdio: Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
    };
    Ok((target, process))
}

fn deleted_out(id: String, deleted: Deleted) -> api::DeleteResponse {
    let (exit_status, exited_at) = exit_out(Some(deleted.exit));
    api::DeleteResponse { id, pid: deleted.pid, exit_status, exited_at }
}

impl Service {
    async fn wait(&self, target: &Target) -> Result<api::WaitResponse> {
        let exit = tokio::select! {
            exit = self.tasks.wait(target) => exit?,
            () = self.stop.cancelled() => {
                return Err(Error::unavailable(format!("wait for {target}: the daemon is stopping")));
            }
        };
        let (exit_status, exited_at) = exit_out(Some(exit));
        Ok(api::WaitResponse { exit_status, exited_at })
    }
}

#[tonic::async_trait]
impl api::tasks_server::Tasks for Service {
    async fn create(
        &self,
        request: Request<api::CreateTaskRequest>,
    ) -> Result<Response<api::CreateTaskResponse>, Status> {
        let create = create_in(request).map_err(status::of)?;
        let container_id = create.container.to_string();
        let pid = self.tasks.create(create).await.map_err(status::of)?;
        Ok(Response::new(api::CreateTaskResponse { container_id, pid }))
    }

    async fn start(
        &self,
        request: Request<api::StartRequest>,
    ) -> Result<Response<api::StartResponse>, Status> {
        let api::StartRequest { container_id, exec_id } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        let pid = self.tasks.start(&target).await.map_err(status::of)?;
        Ok(Response::new(api::StartResponse { pid }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteTaskRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let id = &request.get_ref().container_id;
        let target = target(request.metadata(), id, "").map_err(status::of)?;
        let deleted = self.tasks.delete(&target).await.map_err(status::of)?;
        Ok(Response::new(deleted_out(id.clone(), deleted)))
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let api::DeleteProcessRequest { container_id, exec_id } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        let deleted = self.tasks.delete_process(&target).await.map_err(status::of)?;
        Ok(Response::new(deleted_out(exec_id.clone(), deleted)))
    }

    async fn get(
        &self,
        request: Request<api::GetRequest>,
    ) -> Result<Response<api::GetResponse>, Status> {
        let api::GetRequest { container_id, exec_id } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        let process = self.tasks.get(&target).await.map_err(status::of)?;
        Ok(Response::new(api::GetResponse { process: Some(process_out(process)) }))
    }

    async fn list(
        &self,
        request: Request<api::ListTasksRequest>,
    ) -> Result<Response<api::ListTasksResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let tasks = self.tasks.list(&namespace).await.into_iter().map(process_out).collect();
        Ok(Response::new(api::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Result<Response<()>, Status> {
        let api::KillRequest { container_id, exec_id, signal, all } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        self.tasks.kill(&target, *signal, *all).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn exec(
        &self,
        request: Request<api::ExecProcessRequest>,
    ) -> Result<Response<()>, Status> {
        let (target, process) = exec_in(request).map_err(status::of)?;
        self.tasks.exec(&target, process).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn resize_pty(
        &self,
        request: Request<api::ResizePtyRequest>,
    ) -> Result<Response<()>, Status> {
        let api::ResizePtyRequest { container_id, exec_id, width, height } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        self.tasks.resize_pty(&target, *width, *height).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn close_io(
        &self,
        request: Request<api::CloseIoRequest>,
    ) -> Result<Response<()>, Status> {
        let api::CloseIoRequest { container_id, exec_id, stdin } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        // Standard input is all there is to close.
        if *stdin {
            self.tasks.close_io(&target).await.map_err(status::of)?;
        }
        Ok(Response::new(()))
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Result<Response<()>, Status> {
        let target =
            target(request.metadata(), &request.get_ref().container_id, "").map_err(status::of)?;
        self.tasks.pause(&target).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn resume(
        &self,
        request: Request<api::ResumeTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let target =
            target(request.metadata(), &request.get_ref().container_id, "").map_err(status::of)?;
        self.tasks.resume(&target).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn list_pids(
        &self,
        request: Request<api::ListPidsRequest>,
    ) -> Result<Response<api::ListPidsResponse>, Status> {
        let target =
            target(request.metadata(), &request.get_ref().container_id, "").map_err(status::of)?;
        let found = self.tasks.list_pids(&target).await.map_err(status::of)?;
        let processes = found
            .into_iter()
            .map(|process| ProcessInfo { pid: process.pid, info: process.info.map(any_out) })
            .collect();
        Ok(Response::new(api::ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Result<Response<api::CheckpointTaskResponse>, Status> {
        let target =
            target(request.metadata(), &request.get_ref().container_id, "").map_err(status::of)?;
        let lease = headers::lease(request.metadata()).map_err(status::of)?.map(str::to_owned);
        let request = request.into_inner();
        if !request.parent_checkpoint.is_empty() {
            let parent = request.parent_checkpoint;
            let text = format!("a checkpoint that builds upon {parent} in the content store");
            return Err(status::of(Error::unimplemented(text)));
        }
        let options = request.options.map(any_in);
        let made = self.tasks.checkpoint(&target, NewCheckpoint { options, lease }).await;
        let descriptors = made.map_err(status::of)?.into_iter().map(descriptor_out).collect();
        Ok(Response::new(api::CheckpointTaskResponse { descriptors }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateTaskRequest>,
    ) -> Result<Response<()>, Status> {
        let target =
            target(request.metadata(), &request.get_ref().container_id, "").map_err(status::of)?;
        let request = request.into_inner();
        let resources = required("resources", request.resources).map_err(status::of)?;
        self.tasks
            .update(&target, any_in(resources), request.annotations)
            .await
            .map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn metrics(
        &self,
        request: Request<api::MetricsRequest>,
    ) -> Result<Response<api::MetricsResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let measured =
            self.tasks.metrics(&namespace, &request.get_ref().filters).await.map_err(status::of)?;
        let metrics = measured
            .into_iter()
            .map(|metric| Metric {
                timestamp: Some(metric.at.into()),
                id: metric.container.to_string(),
                data: Some(any_out(metric.data)),
            })
            .collect();
        Ok(Response::new(api::MetricsResponse { metrics }))
    }

    async fn wait(
        &self,
        request: Request<api::WaitRequest>,
    ) -> Result<Response<api::WaitResponse>, Status> {
        let api::WaitRequest { container_id, exec_id } = request.get_ref();
        let target = target(request.metadata(), container_id, exec_id).map_err(status::of)?;
        Service::wait(self, &target).await.map(Response::new).map_err(status::of)
    }
}
