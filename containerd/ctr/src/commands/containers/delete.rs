//! `ctr containers delete`

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::{Fifos, Namespace, Status};

use crate::{cli::Global, session};

/// Delete containers, and their tasks if these have ended.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Do not delete the snapshot with the container
    #[arg(long)]
    keep_snapshot: bool,
    /// Ids of the containers
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        let mut failures = 0;
        for id in &self.containers {
            if let Err(error) = self.delete(&namespace, id).await {
                eprintln!("ctr: {error:#}");
                failures += 1;
            }
        }
        if failures > 0 {
            bail!("{failures} of {} containers were not deleted", self.containers.len());
        }
        Ok(())
    }

    async fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let container = namespace.container(id).await?;
        match container.task().await {
            Ok(task) => {
                let state = task.state().await?;
                match state.status {
                    Status::Stopped | Status::Created => task.delete().await?,
                    status => bail!("container {id} has a task that is {status:?}"),
                };
                drop(Fifos::existing(&state.stdio));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        match self.keep_snapshot {
            true => container.delete().await?,
            false => container.delete_with_snapshot().await?,
        }
        Ok(())
    }
}
