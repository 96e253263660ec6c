//! `ctr images push`

use anyhow::Result;
use clap::Args;
use containerd_client::{PushOptions, Where};

use crate::{cli::Global, platforms, progress::Display, registry::RegistryArgs, session};

/// Send an image to a registry.
#[derive(Debug, Args)]
pub(crate) struct Push {
    #[command(flatten)]
    registry: RegistryArgs,
    /// Only what is for a platform, such as linux/arm64; may be given many times
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// How many uploads there are at once, with --local
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    max_concurrent_uploaded_layers: usize,
    /// Send it from here and not from the daemon
    #[arg(long)]
    local: bool,
    /// What it is called there
    reference: String,
    /// What it is called here, if that is another name
    image: Option<String>,
}

impl Push {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let registry = self.registry.options()?;
        let namespace = session::namespace(global).await?;
        let display = Display::new();
        let options = PushOptions {
            registry,
            platforms: platforms::parse(&self.platform)?,
            max_uploads: self.max_concurrent_uploaded_layers,
            place: match self.local || self.max_concurrent_uploaded_layers > 0 {
                true => Where::Local,
                false => Where::Anywhere,
            },
            progress: Some(display.on_progress()),
        };
        let name = self.image.as_ref().unwrap_or(&self.reference);
        let pushed = namespace.push(name, &self.reference, &options).await;
        display.done()?;
        Ok(pushed?)
    }
}
