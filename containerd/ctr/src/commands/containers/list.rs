//! `ctr containers list`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, output, session, table::Table};

/// List containers.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that a filter matches, such as labels.app==web
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let containers = session::namespace(global).await?.containers(&self.filters).await?;
        if self.quiet {
            for container in &containers {
                output::line(container.id())?;
            }
            return Ok(());
        }
        let mut table = Table::new(4, 4);
        table.line("CONTAINER\tIMAGE\tRUNTIME\t");
        for container in &containers {
            let record = container.record();
            let image = if record.image.is_empty() { "-" } else { &record.image };
            table.line(format!("{}\t{image}\t{}\t", record.id, record.runtime.name));
        }
        Ok(table.print()?)
    }
}
