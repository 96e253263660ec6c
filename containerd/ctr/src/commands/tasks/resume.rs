//! `ctr tasks resume`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session};

/// Let a paused task go on.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Id of the container
    container: String,
}

impl Resume {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let (_, task) = session::task(global, &self.container).await?;
        Ok(task.resume().await?)
    }
}
