//! `ctr tasks list`

use anyhow::Result;
use clap::Args;
use containerd_client::Status;

use crate::{cli::Global, listing::Listing, session, table::Table};

/// List tasks.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    listing: Listing,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let tasks = session::namespace(global).await?.tasks().await?;
        let table = Table::with_header(4, 4, "TASK\tPID\tSTATUS\t");
        Ok(self.listing.print(
            &tasks,
            |task| &task.id,
            table,
            |task| format!("{}\t{}\t{}", task.id, task.init.pid, name(task.init.status)),
        )?)
    }
}

/// The status in the words of the API.
fn name(status: Status) -> &'static str {
    match status {
        Status::Unknown => "UNKNOWN",
        Status::Created => "CREATED",
        Status::Running => "RUNNING",
        Status::Stopped => "STOPPED",
        Status::Paused => "PAUSED",
        Status::Pausing => "PAUSING",
    }
}
