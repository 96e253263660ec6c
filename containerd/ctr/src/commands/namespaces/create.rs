//! `ctr namespaces create`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, session};

/// Make a namespace.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name
    name: String,
    /// Labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Create {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespaces = session::connect(global).await?.namespaces();
        namespaces.create(&self.name, labels::parse(&self.labels)).await?;
        Ok(())
    }
}
