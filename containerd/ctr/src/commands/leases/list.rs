//! `ctr leases list`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, output, session, table::Table, time};

/// List leases.
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
        let leases = session::namespace(global).await?.leases().list(&self.filters).await?;
        if self.quiet {
            for lease in &leases {
                output::line(&lease.id)?;
            }
            return Ok(());
        }
        let mut table = Table::new(1, 1);
        table.line("ID\tCREATED AT\tLABELS\t");
        for lease in leases {
            let labels = labels::join(&lease.labels);
            let labels = if labels.is_empty() { "-" } else { &labels };
            table.line(format!("{}\t{}\t{labels}\t", lease.id, time::rfc3339(lease.created_at)));
        }
        Ok(table.print()?)
    }
}
