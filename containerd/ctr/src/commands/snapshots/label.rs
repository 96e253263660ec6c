//! `ctr snapshots label`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

use crate::{labels, output};

/// Set labels of a snapshot and print all it has. An empty value clears one.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Its key or name
    name: String,
    /// Labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Label {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        let info = snapshots.set_labels(&self.name, labels::parse(&self.labels)).await?;
        Ok(output::line(labels::join(&info.labels))?)
    }
}
