//! `ctr images unmount`

use anyhow::Result;
use clap::Args;

use super::mount::unmount;
use crate::{cli::Global, output, session, snapshotter::SnapshotterArgs};

/// Unmount an image from a folder, and print that.
#[derive(Debug, Args)]
pub(crate) struct Unmount {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Remove the snapshot, too
    #[arg(long)]
    rm: bool,
    /// The folder
    target: String,
}

impl Unmount {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        unmount(&self.target).await?;
        if self.rm {
            match namespace.leases().delete(&self.target, false).await {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
            let snapshotter = self.snapshotter.name(&namespace).await?;
            namespace.images().remove_snapshot(&snapshotter, &self.target).await?;
        }
        Ok(output::line(&self.target)?)
    }
}
