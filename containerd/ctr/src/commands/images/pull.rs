//! `ctr images pull`

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use containerd_client::{Namespace, Platform, PullOptions, Where, platform::Matcher};

use crate::{
    cli::Global, labels, output, platforms::PlatformArgs, progress::Display,
    registry::RegistryArgs, session, snapshotter::SnapshotterArgs,
};

/// Fetch an image from a registry and unpack it.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    #[command(flatten)]
    platforms: PlatformArgs,
    /// Add a label to the image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Fetch manifests and configurations of the other platforms, too
    #[arg(long)]
    all_metadata: bool,
    /// Do not; that is so unless --all-metadata
    #[arg(long, hide = true, conflicts_with = "all_metadata")]
    skip_metadata: bool,
    /// Print the name of the snapshot with all layers
    #[arg(long)]
    print_chainid: bool,
    /// Do not unpack it
    #[arg(long)]
    no_unpack: bool,
    /// How many downloads there are at once, with --local
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    max_concurrent_downloads: usize,
    /// Fetch it here and not in the daemon
    #[arg(long)]
    local: bool,
    /// The image
    reference: String,
}

impl Pull {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let named = self.platforms.named()?;
        let registry = self.registry.options()?;
        let namespace = session::namespace(global).await?;
        let snapshotter = self.snapshotter.name(&namespace).await?;
        let start = Instant::now();
        let display = Display::new();
        let options = PullOptions {
            registry,
            platforms: named.clone(),
            all_platforms: self.platforms.all_platforms,
            all_metadata: self.all_metadata,
            labels: labels::parse(&self.label),
            unpack: (!self.no_unpack).then(|| snapshotter.clone()),
            max_downloads: self.max_concurrent_downloads,
            place: match self.local || self.max_concurrent_downloads > 0 {
                true => Where::Local,
                false => Where::Anywhere,
            },
            progress: Some(display.on_progress()),
        };
        let pulled = namespace.pull(&self.reference, &options).await;
        display.done()?;
        pulled?;
        if self.print_chainid {
            self.print_chain_ids(&namespace, named).await?;
        }
        Ok(output::line(format_args!("done: {:.3?}\t", start.elapsed()))?)
    }

    async fn print_chain_ids(&self, namespace: &Namespace, named: Vec<Platform>) -> Result<()> {
        let images = namespace.images();
        let image = images.get(&self.reference).await?;
        let platforms = match (self.platforms.all_platforms, named.is_empty()) {
            (true, _) => images.platforms(&image).await?,
            (false, true) => vec![Platform::host()],
            (false, false) => named,
        };
        for platform in platforms {
            let contents = images.contents(&image, &Matcher::only(&platform)).await?;
            output::line(format_args!("image chain ID: {}", contents.chain_id()))?;
        }
        Ok(())
    }
}
