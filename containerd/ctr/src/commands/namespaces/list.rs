//! `ctr namespaces list`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, listing::Listing, session, table::Table};

/// List namespaces.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    listing: Listing,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespaces = session::connect(global).await?.namespaces().list().await?;
        let table = Table::with_header(1, 1, "NAME\tLABELS\t");
        Ok(self.listing.print(
            &namespaces,
            |namespace| &namespace.name,
            table,
            |namespace| format!("{}\t{}\t", namespace.name, labels::join(&namespace.labels)),
        )?)
    }
}
