//! `ctr containers stats`

use anyhow::Result;
use clap::Args;

use super::connect;
use crate::{cli::Global, json, output};

/// Print what a container uses, a line of JSON about every second (2015).
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Id of the container
    id: String,
}

impl Stats {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let mut figures = connect(global).await?.stats(&self.id).await?;
        while let Some(figures) = figures.next().await? {
            output::line(json::without_empty(serde_json::to_value(figures)?))?;
        }
        Ok(())
    }
}
