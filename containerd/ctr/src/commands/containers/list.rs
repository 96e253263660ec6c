//! `ctr containers list`

use anyhow::Result;
use clap::Args;
use containerd_client::Container;

use crate::{cli::Global, listing::Listing, session, table::Table};

/// List containers.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    listing: Listing,
    /// Only those that a filter matches, such as labels.app==web
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let containers = session::namespace(global).await?.containers(&self.filters).await?;
        let table = Table::with_header(4, 4, "CONTAINER\tIMAGE\tRUNTIME\t");
        Ok(self.listing.print(&containers, Container::id, table, |container| {
            let record = container.record();
            let image = if record.image.is_empty() { "-" } else { &record.image };
            format!("{}\t{image}\t{}\t", record.id, record.runtime.name)
        })?)
    }
}
