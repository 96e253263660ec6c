//! Checkpoints as images: tasks and containers that are written to the content
//! store, and made again from there, on this host or on another.
//!
//! A checkpoint is an index. Below it are, as far as they were asked for (media
//! types and annotations are containerd's, `client/container_checkpoint_opts.go`
//! and `client/task.go`):
//!
//! ```text
//! …container.criu.checkpoint.criu.tar            what CRIU has written
//! …container.checkpoint.config.v1+proto          the OCI configuration
//! …container.checkpoint.options.v1+proto         what CRIU was allowed
//! …container.checkpoint.runtime.options+proto    options of the runtime
//! a manifest or index                            the image of the container
//! a layer                                        what was written to the snapshot
//! ```

mod container;
mod index;
mod restore;
mod task;

pub use self::{container::ContainerCheckpoint, restore::Restore, task::TaskCheckpoint};

use containerd_images::Descriptor;

use crate::{
    Error, ErrorKind, Lease, Namespace, Resource, Result, Status, Task, lease::WORK_EXPIRES,
};

/// Annotation of an index: the image of the container.
const IMAGE: &str = "org.opencontainers.image.ref.name";
/// Annotation of an index: the image of the container, where it was a task that
/// was checkpointed.
const TASK_IMAGE: &str = "image.name";
/// Annotation of an index: the name of the runtime.
const RUNTIME: &str = "io.containerd.checkpoint.runtime";
/// Annotation of an index: the snapshotter of the container.
const SNAPSHOTTER: &str = "io.containerd.checkpoint.snapshotter";
/// Label of images that are checkpoints of tasks.
const LABEL: &str = "containerd.io/checkpoint";

/// Works while the task is paused, so that its memory and its files are of one
/// time. One that was paused before stays so.
async fn while_paused<T>(task: &Task, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let paused = match task.state().await?.status {
        Status::Running => {
            task.pause().await?;
            true
        }
        _ => false,
    };
    let result = work().await;
    if paused {
        let resumed = resume(task).await;
        // What failed first matters more.
        if result.is_ok() {
            resumed?;
        }
    }
    result
}

/// Lets a task go on, unless the checkpoint has ended it.
async fn resume(task: &Task) -> Result<()> {
    match task.state().await {
        Ok(state) if matches!(state.status, Status::Paused | Status::Pausing) => {}
        Ok(_) => return Ok(()),
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e),
    }
    match task.resume().await {
        // It has ended in between.
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => match task.state().await {
            Ok(state) if matches!(state.status, Status::Paused | Status::Pausing) => Err(e),
            _ => Ok(()),
        },
        resumed => resumed,
    }
}

/// Nobody may be kept from having what is written by a name that is taken.
async fn is_free(namespace: &Namespace, name: &str) -> Result<()> {
    match namespace.images().get(name).await {
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(Error::new(ErrorKind::AlreadyExists, format!("image {name}"))),
    }
}

/// A task has ended with its checkpoint, which then came to nothing: what is left
/// of it gets a lease of its own, and the error says which.
async fn keep(namespace: &Namespace, parts: &[Descriptor], cause: Error) -> Error {
    let id = Lease::random_id();
    let leases = namespace.leases();
    let held = async {
        leases.create(&id, [Lease::expires(WORK_EXPIRES)].into()).await?;
        for part in parts {
            let resource = Resource { id: part.digest.to_string(), kind: "content".into() };
            leases.add_resource(&id, resource).await?;
        }
        Ok::<_, Error>(())
    };
    let names: Vec<_> = parts.iter().map(|part| part.digest.to_string()).collect();
    let names = names.join(" and ");
    let text = match held.await {
        Ok(()) => format!("the task has ended; lease {id} holds {names} of it for a day"),
        Err(error) => format!("the task has ended; of it is {names}, but: {}", error.report()),
    };
    Error::caused(cause.kind(), text, cause)
}

/// The task of a container, if there is one.
async fn task_of(namespace: &Namespace, id: &str) -> Result<Option<Task>> {
    match namespace.task(id).await {
        Err(e) if e.is_not_found() => Ok(None),
        task => task.map(Some),
    }
}
