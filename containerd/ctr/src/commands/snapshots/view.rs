//! `ctr snapshots view`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

use super::Mounting;

/// Make a snapshot that is only read.
#[derive(Debug, Args)]
pub(crate) struct View {
    #[command(flatten)]
    mounting: Mounting,
    /// What it is called
    key: String,
    /// The committed one that it builds upon
    #[arg(default_value = "", hide_default_value = true)]
    parent: String,
}

impl View {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        let mounts = snapshots.view(&self.key, &self.parent, Default::default()).await?;
        self.mounting.print(&mounts)
    }
}
