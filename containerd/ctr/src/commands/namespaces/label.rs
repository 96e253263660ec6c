//! `ctr namespaces label`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, session};

/// Set labels of a namespace. An empty value clears one.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Its name
    name: String,
    /// Labels
    #[arg(value_name = "KEY=VALUE", required = true)]
    labels: Vec<String>,
}

impl Label {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespaces = session::connect(global).await?.namespaces();
        namespaces.set_labels(&self.name, labels::parse(&self.labels)).await?;
        Ok(())
    }
}
