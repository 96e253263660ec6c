//! `ctr tasks ps`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session, table::Table};

/// List the processes of a task.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Id of the container
    container: String,
}

impl Ps {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let (_, task) = session::task(global, &self.container).await?;
        let mut table = Table::new(1, 4);
        table.line("PID\tINFO");
        for process in task.pids().await? {
            let info = match (process.exec_id(), &process.info) {
                (Some(exec_id), _) => format!("exec_id:{exec_id:?}"),
                (None, Some(info)) => info.type_url.clone(),
                (None, None) => "-".to_owned(),
            };
            table.line(format!("{}\t{info}", process.pid));
        }
        Ok(table.print()?)
    }
}
