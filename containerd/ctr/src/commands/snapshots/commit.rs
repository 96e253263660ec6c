//! `ctr snapshots commit`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

/// Fix an active snapshot under a name.
#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// What it is called from then on
    key: String,
    /// What it is called now
    active: String,
}

impl Commit {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        Ok(snapshots.commit(&self.key, &self.active, "", super::kept()).await?)
    }
}
