//! `ctr content fetch`

use anyhow::Result;
use clap::Args;
use containerd_client::{PullOptions, Where};

use crate::{
    cli::Global, labels, platforms::PlatformArgs, progress::Display, registry::RegistryArgs,
    session,
};

/// Fetch all content of an image, and give it its name; nothing is unpacked.
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    #[command(flatten)]
    registry: RegistryArgs,
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
    /// The image
    reference: String,
}

impl Fetch {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let platforms = self.platforms.named()?;
        let registry = self.registry.options()?;
        let namespace = session::namespace(global).await?;
        let display = Display::new();
        let options = PullOptions {
            registry,
            platforms,
            all_platforms: self.platforms.all_platforms,
            all_metadata: self.all_metadata,
            labels: labels::parse(&self.label),
            // So does Go's client.
            place: Where::Local,
            progress: Some(display.on_progress()),
            ..PullOptions::default()
        };
        let fetched = namespace.fetch(&self.reference, &options).await;
        display.done()?;
        fetched?;
        Ok(())
    }
}
