//! Making a task out of a container's record.

use std::path::PathBuf;

use prost::{Message, Name};
use runtime_v2::{Any, Checkpoint, CreateTask};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::{Create, Tasks};
use crate::{containers::Container, namespaces::DEFAULT_RUNTIME_LABEL};
use containerd_api::runc::v1::Options;

impl Tasks {
    /// Makes the task of a container, up to the point where the user's program
    /// can be started; answers init's pid. If it fails, nothing of it is left;
    /// if the caller goes away, it goes on.
    ///
    /// # Errors
    /// `NotFound` when there is no such container, `AlreadyExists` when it has a
    /// task, `FailedPrecondition` when it has no OCI configuration or its
    /// runtime is not installed, `InvalidArgument` for a checkpoint that is none,
    /// `Unimplemented` for a task API that is served by somebody else, and what
    /// [`Manager::create`](runtime_v2::Manager::create) says.
    pub async fn create(&self, request: Create) -> Result<u32> {
        if !request.task_api_address.is_empty() {
            return Err(Error::unimplemented(format!(
                "task API at {:?}: tasks of a sandbox's shim",
                request.task_api_address
            )));
        }
        let under_way = self.starts.begin().await;
        let (namespace, id) = (request.namespace.clone(), request.container.clone());
        let container = self.containers.get(&namespace, &id).await?;
        let task = self.describe(request, container).await?;
        let task =
            self.manager.create(task).await.context("create task", format_args!("{id:?}"))?;
        self.starts.made(&namespace, &id, &under_way);
        Ok(task.pid())
    }

    async fn describe(&self, request: Create, container: Container) -> Result<CreateTask> {
        let runtime = if request.runtime_path.is_empty() {
            self.runtime_of(&request.namespace, container.runtime.name).await?
        } else {
            request.runtime_path
        };
        let folder = request.options.as_ref().map(restore_folder).transpose()?.flatten();
        let checkpoint = match (folder, request.checkpoint) {
            (Some(folder), _) => Some(Checkpoint::Folder(folder)),
            (None, Some(stored)) => {
                Some(Checkpoint::Images(self.images(&request.namespace, stored)?))
            }
            (None, None) => None,
        };
        let options = request.options.filter(|o| !o.value.is_empty()).or(container.runtime.options);
        let spec = container.spec.ok_or_else(|| {
            Error::precondition(format!("container {:?} has no OCI configuration", container.id))
        })?;
        Ok(CreateTask {
            namespace: request.namespace,
            id: container.id,
            runtime,
            spec: spec.value,
            options,
            rootfs: request.rootfs,
            stdio: request.stdio,
            checkpoint,
        })
    }

    /// The container's runtime, or else the namespace's, or else the daemon's.
    async fn runtime_of(&self, namespace: &Id, name: String) -> Result<String> {
        if !name.is_empty() {
            return Ok(name);
        }
        let mut labels = self.namespaces.get(namespace).await?.labels;
        let default = || self.config.default_runtime.clone();
        Ok(labels.remove(DEFAULT_RUNTIME_LABEL).unwrap_or_else(default))
    }
}

/// The folder with a checkpoint that runc's options name for this task. Only
/// the request's own options are asked: a container's would restore it on
/// every start (containerd, `plugins/services/tasks/local.go`).
fn restore_folder(options: &Any) -> Result<Option<PathBuf>> {
    if options.type_url.rsplit('/').next() != Some(Options::full_name().as_str()) {
        return Ok(None);
    }
    let options = Options::decode(options.value.as_slice()).map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, format!("decode {}", Options::full_name()), e)
    })?;
    Ok((!options.criu_image_path.is_empty()).then(|| options.criu_image_path.into()))
}
