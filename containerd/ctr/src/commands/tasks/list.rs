//! `ctr tasks list`

use anyhow::Result;
use clap::Args;
use containerd_client::Status;

use crate::{cli::Global, output, session, table::Table};

/// List tasks.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let tasks = session::namespace(global).await?.tasks().await?;
        if self.quiet {
            for task in &tasks {
                output::line(&task.id)?;
            }
            return Ok(());
        }
        let mut table = Table::new(4, 4);
        table.line("TASK\tPID\tSTATUS\t");
        for task in tasks {
            table.line(format!("{}\t{}\t{}", task.id, task.init.pid, name(task.init.status)));
        }
        Ok(table.print()?)
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
