//! `ctr containers checkpoint`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use containerd_client::{CheckpointOptions, ContainerCheckpoint};

use crate::{
    cli::Global,
    commands::tasks::checkpoint::{AllowArgs, leaving_it_running},
    session,
};

/// Save a container as an image. A task that runs is paused meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// Include what the container has written to its snapshot
    #[arg(long)]
    rw: bool,
    /// Include the image that the container was made from
    #[arg(long)]
    image: bool,
    /// Include the task, with CRIU
    #[arg(long)]
    task: bool,
    /// End the task when it is on disk
    #[arg(long, requires = "task")]
    exit: bool,
    #[command(flatten)]
    allow: AllowArgs,
    /// Id of the container
    container: String,
    /// Name of the image
    reference: String,
}

impl Checkpoint {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let container = session::namespace(global).await?.container(&self.container).await?;
        // File locks are kept in any case, as with containerd's `ctr`.
        let options =
            CheckpointOptions { exit: self.exit, file_locks: true, ..self.allow.options() };
        let mut parts = ContainerCheckpoint::new().options(options);
        if self.image {
            parts = parts.image();
        }
        if self.rw {
            parts = parts.files();
        }
        if self.task {
            parts = parts.task();
        }
        let task = match container.task().await {
            Err(e) if e.is_not_found() => None,
            task => Some(task?),
        };
        let write = async {
            container.checkpoint(&self.reference, &parts).await?;
            Ok(())
        };
        leaving_it_running(task.as_ref(), write).await
    }
}
