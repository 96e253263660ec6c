//! `ctr snapshots mounts`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

/// Print the commands that mount a snapshot.
#[derive(Debug, Args)]
pub(crate) struct Mounts {
    /// Where it would be mounted
    target: String,
    /// Its key
    key: String,
}

impl Mounts {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        super::print_commands(&self.target, &snapshots.mounts(&self.key).await?)
    }
}
