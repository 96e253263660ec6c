//! `ctr content label`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, output, session};

/// Set labels of content and print all it has. An empty value clears one.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Its digest
    digest: String,
    /// Labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Label {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let content = session::namespace(global).await?.content();
        // A mask of no labels would stand for all.
        let info = match self.labels.is_empty() {
            true => content.info(&self.digest).await?,
            false => content.set_labels(&self.digest, labels::parse(&self.labels)).await?,
        };
        Ok(output::line(labels::join(&info.labels))?)
    }
}
