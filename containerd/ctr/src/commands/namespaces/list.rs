//! `ctr namespaces list`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, output, session, table::Table};

/// List namespaces.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespaces = session::connect(global).await?.namespaces().list().await?;
        if self.quiet {
            for namespace in &namespaces {
                output::line(&namespace.name)?;
            }
            return Ok(());
        }
        let mut table = Table::new(1, 1);
        table.line("NAME\tLABELS\t");
        for namespace in namespaces {
            table.line(format!("{}\t{}\t", namespace.name, labels::join(&namespace.labels)));
        }
        Ok(table.print()?)
    }
}
