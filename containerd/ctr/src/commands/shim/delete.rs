//! `ctr shim delete`

use anyhow::{Context, Result};
use clap::Args;
use shim_protocol::proto::task_v2::DeleteRequest;

use crate::output;

use super::ShimClient;

/// Delete a process that has ended, and print how it ended.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Process within the container, in place of the first
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
    /// Id of the container, if it is not the shim's
    container: Option<String>,
}

impl Delete {
    pub(super) async fn run(self, client: &ShimClient, shim: Option<String>) -> Result<()> {
        let id = self.container.or(shim).context("the id of the container is missing")?;
        let exec_id = self.exec_id.unwrap_or_default();
        let request = DeleteRequest { id, exec_id, ..Default::default() };
        let status = client.delete(&request).await?.exit_status;
        Ok(output::line(format_args!("container deleted and returned exit status {status}"))?)
    }
}
