//! `ctr shim state`

use anyhow::{Context, Result};
use clap::Args;
use protobuf::well_known_types::timestamp::Timestamp;
use serde_json::json;
use shim_protocol::proto::task_v2::StateRequest;

use crate::json as print;

use super::ShimClient;

/// Print the state of a process as JSON.
#[derive(Debug, Args)]
pub(super) struct State {
    /// Container, if it is not the shim's
    #[arg(short, long, value_name = "ID")]
    task_id: Option<String>,
    /// Process within the container, in place of the first
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
}

impl State {
    pub(super) async fn run(self, client: &ShimClient, shim: Option<String>) -> Result<()> {
        let id = self.task_id.or(shim).context("the id of the container is missing")?;
        let exec_id = self.exec_id.unwrap_or_default();
        let state = client.state(&StateRequest { id, exec_id, ..Default::default() }).await?;
        let exited_at = state.exited_at.as_ref().map(rfc3339);
        print::print(&print::without_empty(json!({
            "id": state.id,
            "bundle": state.bundle,
            "pid": state.pid,
            "status": state.status.value(),
            "stdin": state.stdin,
            "stdout": state.stdout,
            "stderr": state.stderr,
            "terminal": state.terminal,
            "exit_status": state.exit_status,
            "exited_at": exited_at,
            "exec_id": state.exec_id,
        })))
    }
}

fn rfc3339(time: &Timestamp) -> String {
    prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos }.to_string()
}
