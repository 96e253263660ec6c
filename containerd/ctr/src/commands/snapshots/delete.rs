//! `ctr snapshots delete`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

/// Remove snapshots. The first that cannot be removed ends it.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Keys or names
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

impl Delete {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        for key in &self.keys {
            snapshots.remove(key).await?;
        }
        Ok(())
    }
}
