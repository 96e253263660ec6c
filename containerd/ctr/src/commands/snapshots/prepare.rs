//! `ctr snapshots prepare`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

use super::Mounting;

/// Make a snapshot that can be written to.
#[derive(Debug, Args)]
pub(crate) struct Prepare {
    #[command(flatten)]
    mounting: Mounting,
    /// What it is called
    key: String,
    /// The committed one that it builds upon
    #[arg(default_value = "", hide_default_value = true)]
    parent: String,
}

impl Prepare {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        let mounts = snapshots.prepare(&self.key, &self.parent, super::kept()).await?;
        self.mounting.print(&mounts)
    }
}
