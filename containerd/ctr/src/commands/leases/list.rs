//! `ctr leases list`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, listing::Listing, session, table::Table, time};

/// List leases.
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
        let leases = session::namespace(global).await?.leases().list(&self.filters).await?;
        let table = Table::with_header(1, 1, "ID\tCREATED AT\tLABELS\t");
        Ok(self.listing.print(
            &leases,
            |lease| &lease.id,
            table,
            |lease| {
                let labels = labels::join(&lease.labels);
                let labels = if labels.is_empty() { "-" } else { &labels };
                format!("{}\t{}\t{labels}\t", lease.id, time::rfc3339(lease.created_at))
            },
        )?)
    }
}
