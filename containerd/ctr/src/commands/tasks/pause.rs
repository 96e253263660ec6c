//! `ctr tasks pause`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session};

/// Freeze the processes of a task.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Id of the container
    container: String,
}

impl Pause {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let (_, task) = session::task(global, &self.container).await?;
        Ok(task.pause().await?)
    }
}
