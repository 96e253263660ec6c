//! `ctr tasks checkpoint`

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::CheckpointOptions;

use crate::{cli::Global, session};

/// Freeze a task onto disk, with CRIU.
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// End the task when it is on disk
    #[arg(long)]
    exit: bool,
    /// Folder that CRIU writes the task to
    #[arg(long, value_name = "DIR")]
    image_path: Option<String>,
    /// Folder for CRIU's own files and logs
    #[arg(long, value_name = "DIR")]
    work_path: Option<String>,
    /// Id of the container
    container: String,
}

impl Checkpoint {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let Some(image_path) = self.image_path else {
            bail!("checkpoints as images are not supported yet; name a folder with --image-path");
        };
        let (_, task) = session::task(global, &self.container).await?;
        let options = CheckpointOptions {
            exit: self.exit,
            image_path,
            work_path: self.work_path.unwrap_or_default(),
            ..CheckpointOptions::default()
        };
        task.checkpoint(&options).await?;
        Ok(())
    }
}
