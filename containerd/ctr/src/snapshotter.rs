//! Which snapshotter a command works with.

use anyhow::Result;
use clap::Args;
use containerd_client::Namespace;

/// Which snapshotter.
#[derive(Debug, Args)]
pub(crate) struct SnapshotterArgs {
    /// Snapshotter, in place of the namespace's
    #[arg(
        long,
        env = "CONTAINERD_SNAPSHOTTER",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    snapshotter: String,
}

impl SnapshotterArgs {
    /// Its name.
    pub(crate) async fn name(&self, namespace: &Namespace) -> Result<String> {
        Ok(namespace.snapshotter(&self.snapshotter).await?)
    }
}
