//! `ctr content active`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session, table::Table, units};

/// List what is being written.
#[derive(Debug, Args)]
pub(crate) struct Active {
    /// Only those that a filter matches, such as ref~=layer
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Active {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let ingests = session::namespace(global).await?.content().ingests(&self.filters).await?;
        let mut table = Table::new(1, 1);
        table.line("REF\tSIZE\tAGE\t");
        for ingest in ingests {
            let (size, age) = (units::size(ingest.offset), units::age(ingest.started_at));
            table.line(format!("{}\t{size}\t{age}\t", ingest.reference));
        }
        Ok(table.print()?)
    }
}
