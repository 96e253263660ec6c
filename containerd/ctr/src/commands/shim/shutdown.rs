//! `ctr shim shutdown`

use anyhow::Result;
use clap::Args;
use shim_protocol::proto::task_v2::ShutdownRequest;

use super::ShimClient;

/// End the shim, if it has no container.
#[derive(Debug, Args)]
pub(super) struct Shutdown {}

impl Shutdown {
    pub(super) async fn run(self, client: &ShimClient, shim: Option<String>) -> Result<()> {
        let id = shim.unwrap_or_default();
        client.shutdown(&ShutdownRequest { id, ..Default::default() }).await?;
        Ok(())
    }
}
