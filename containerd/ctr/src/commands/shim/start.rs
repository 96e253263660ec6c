//! `ctr shim start`

use anyhow::{Context, Result};
use clap::Args;
use shim_protocol::proto::task_v2::StartRequest;

use super::ShimClient;

/// Start a process that was made.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// Process within the container, in place of the first
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
    /// Id of the container, if it is not the shim's
    container: Option<String>,
}

impl Start {
    pub(super) async fn run(self, client: &ShimClient, shim: Option<String>) -> Result<()> {
        let id = self.container.or(shim).context("the id of the container is missing")?;
        let exec_id = self.exec_id.unwrap_or_default();
        client.start(&StartRequest { id, exec_id, ..Default::default() }).await?;
        Ok(())
    }
}
