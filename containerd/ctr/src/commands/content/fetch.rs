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
    /// Fetch manifests of all platforms; that is so unless --skip-metadata
    #[arg(long, hide = true)]
    all_metadata: bool,
    /// Do not fetch manifests of other platforms; such an image cannot be pushed whole
    #[arg(long, conflicts_with = "all_metadata")]
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
            all_metadata: !self.skip_metadata,
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
