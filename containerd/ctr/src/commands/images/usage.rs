//! `ctr images usage`

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::platform::Matcher;

use crate::{cli::Global, session, snapshotter::SnapshotterArgs, table::Table, units};

/// Show how much disk space the snapshots of an image take.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Name of the image
    image: String,
}

impl Usage {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        let snapshotter = self.snapshotter.name(&namespace).await?;
        let images = namespace.images();
        let image = images.get(&self.image).await?;
        let contents = images.contents(&image, &Matcher::host()).await?;
        if !images.is_unpacked(&contents, &snapshotter).await? {
            bail!("image {} isn't unpacked in snapshotter {snapshotter}", self.image);
        }
        let mut table = Table::with_header(1, 1, "KEY\tSIZE\tINODES\t");
        for usage in images.usage(&contents, &snapshotter).await? {
            table.line(format!(
                "{}\t{}\t{}\t",
                usage.name,
                units::binary(usage.size),
                usage.inodes
            ));
        }
        Ok(table.print()?)
    }
}
