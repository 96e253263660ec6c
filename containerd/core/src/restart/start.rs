//! Starting and stopping a container's task on the monitor's behalf.

use std::{collections::BTreeMap, time::Duration};

use nix::sys::signal::Signal;
use runtime_v2::Stdio;
use serde::Deserialize;
use shim_protocol::{Context, Error, ErrorKind, Id, Result};
use tokio::time::timeout;

use super::{COUNT_LABEL, LOG_URI_LABEL};
use crate::{
    containers::{Container, Containers},
    tasks::{Create, Target, Tasks},
};

/// How long a task may take to end after SIGKILL. One that hangs in the kernel
/// takes longer, and is tried again at the next look.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Starts the task of a container anew, in the place of whatever there is. The
/// start is counted first, so that one that fails counts too.
///
/// # Errors
/// `Unimplemented` for a container on a snapshot; those of the steps.
pub(super) async fn start(
    containers: &Containers,
    tasks: &Tasks,
    namespace: &Id,
    mut container: Container,
    count: u64,
) -> Result<()> {
    if !container.snapshot_key.is_empty() {
        return Err(Error::unimplemented("restart of a container on a snapshot"));
    }
    let stdio = stdio(&container)?;
    let id = container.id.clone();
    container.labels = BTreeMap::from([(COUNT_LABEL.to_owned(), count.to_string())]);
    let path = format!("labels.{COUNT_LABEL}");
    containers.update(namespace, container, &[path]).await.context("count the start of", &id)?;

    let target = Target { namespace: namespace.clone(), container: id.clone(), exec: None };
    end(tasks, &target).await?;
    let create = Create {
        namespace: namespace.clone(),
        container: id,
        rootfs: Vec::new(),
        stdio,
        options: None,
        runtime_path: String::new(),
        checkpoint: None,
        task_api_address: String::new(),
    };
    tasks.create(create).await?;
    if let Err(error) = tasks.start(&target).await {
        // One that was created and does not start is in the way of the next.
        if let Err(left) = end(tasks, &target).await {
            tracing::warn!(namespace = %target.namespace, %target, error = %left.report(), "left behind");
        }
        return Err(error);
    }
    Ok(())
}

/// Kills a task, if there is one, and deletes it.
///
/// # Errors
/// `DeadlineExceeded` when it does not end; those of the steps.
pub(super) async fn end(tasks: &Tasks, target: &Target) -> Result<()> {
    let kill = Signal::SIGKILL as u32;
    match tasks.kill(target, kill, true).await {
        Ok(()) => {
            let ended = timeout(END_LIMIT, tasks.wait(target)).await.map_err(|_| {
                let text = format!("{target} did not end in {END_LIMIT:?}");
                Error::new(ErrorKind::DeadlineExceeded, text)
            })?;
            or_gone(ended.map(drop))?;
        }
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    or_gone(tasks.delete(target).await.map(drop))
}

fn or_gone(result: Result<()>) -> Result<()> {
    result.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
}

/// Nobody is there to read the output, so it goes where the label says, or
/// nowhere.
fn stdio(container: &Container) -> Result<Stdio> {
    #[derive(Deserialize)]
    struct Spec {
        process: Option<Process>,
    }
    #[derive(Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let terminal = match &container.spec {
        None => false,
        Some(spec) => {
            let spec: Spec = serde_json::from_slice(&spec.value).map_err(|e| {
                let text = format!("OCI configuration of container {:?}", container.id);
                Error::caused(ErrorKind::InvalidArgument, text, e)
            })?;
            spec.process.is_some_and(|process| process.terminal)
        }
    };
    let log = container.labels.get(LOG_URI_LABEL).cloned().unwrap_or_default();
    Ok(Stdio { stdin: String::new(), stdout: log.clone(), stderr: log, terminal })
}
