//! `ctr content list`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, output, session, table::Table, units};

/// List content.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print digests only
    #[arg(short, long)]
    quiet: bool,
    /// Only what a filter matches, such as labels.app==web
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let found = session::namespace(global).await?.content().list(&self.filters).await?;
        if self.quiet {
            for info in &found {
                output::line(&info.digest)?;
            }
            return Ok(());
        }
        let mut table = Table::new(1, 1);
        table.line("DIGEST\tSIZE\tAGE\tLABELS");
        for info in found {
            let labels = labels::join(&info.labels);
            let labels = if labels.is_empty() { "-" } else { &labels };
            let (size, age) = (units::size(info.size), units::age(info.created_at));
            table.line(format!("{}\t{size}\t{age}\t{labels}", info.digest));
        }
        Ok(table.print()?)
    }
}
