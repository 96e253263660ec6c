//! Containers made side by side, for tests and measurements with many.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use containerd_api::services::containers::v1::DeleteContainerRequest;
use nix::sys::signal::Signal;

use crate::{Api, Container, Process, Spec, Stdio};

/// All that it takes to make containers of one kind, wherever the daemon is.
#[derive(Clone)]
pub struct Load {
    api: Api,
    base: Spec,
    cgroup: String,
}

impl Load {
    /// Containers like `base`, each in a cgroup of its own below `cgroup`.
    pub fn new(api: Api, base: Spec, cgroup: &str) -> Self {
        Self { api, base, cgroup: cgroup.into() }
    }

    /// The connection.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// One whole life of a container without streams that does nothing: record,
    /// task, start, exit, and both deleted.
    ///
    /// # Errors
    /// The daemon refuses, or `true` failed.
    pub async fn live(&self, id: &str) -> Result<()> {
        let container = self.record(id, &["/bin/true"]).await?;
        let task = start(&container).await?;
        let exit = task.wait().await.with_context(|| format!("wait for {id}"))?;
        ensure!(exit.status == 0, "{id}: {exit:?}");
        task.delete().await.with_context(|| format!("delete task {id}"))?;
        container.delete().await.with_context(|| format!("delete {id}"))
    }

    /// A running container that stays until somebody ends it.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn settle(&self, id: &str) -> Result<Process> {
        start(&self.record(id, &["/bin/sleep", "100000"]).await?).await
    }

    /// Kills a task, waits for its end, and deletes it and its container.
    ///
    /// # Errors
    /// The daemon refuses, or the task did not die of the signal.
    pub async fn destroy(&self, task: &Process) -> Result<()> {
        let id = &task.container;
        task.kill(Signal::SIGKILL).await.with_context(|| format!("kill {id}"))?;
        self.bury(task).await
    }

    /// Waits for the end of a task that was killed, and deletes it and its
    /// container.
    ///
    /// # Errors
    /// The daemon refuses, or the task did not die of the signal.
    pub async fn bury(&self, task: &Process) -> Result<()> {
        let id = &task.container;
        let exit = task.wait().await.with_context(|| format!("wait for {id}"))?;
        ensure!(exit.status == 137, "{id}: {exit:?} after SIGKILL");
        task.delete().await.with_context(|| format!("delete task {id}"))?;
        let request = DeleteContainerRequest { id: id.clone() };
        self.api.containers().delete(request).await.with_context(|| format!("delete {id}"))?;
        Ok(())
    }

    async fn record(&self, id: &str, arguments: &[&str]) -> Result<Container> {
        let cgroup = format!("{}/{id}", self.cgroup);
        let spec = self.base.clone().args(arguments).set("/linux/cgroupsPath", cgroup.into());
        Container::create(&self.api, id, &spec, BTreeMap::new()).await
    }
}

async fn start(container: &Container) -> Result<Process> {
    let id = container.id();
    let task = container.task(false, Vec::new(), Stdio::null()).await;
    let mut task = task.with_context(|| format!("create task {id}"))?;
    task.start().await.with_context(|| format!("start task {id}"))?;
    Ok(task)
}
