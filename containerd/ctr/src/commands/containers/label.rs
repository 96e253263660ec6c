//! `ctr containers label`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, output, session};

/// Set labels of a container and print all of them. An empty value clears one.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Id of the container
    container: String,
    /// Labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Label {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let mut container = session::namespace(global).await?.container(&self.container).await?;
        if !self.labels.is_empty() {
            container.set_labels(labels::parse(&self.labels)).await?;
        }
        Ok(output::line(labels::join(&container.record().labels))?)
    }
}
