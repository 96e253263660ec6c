//! Flags that say for which platforms.

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::Platform;

/// For which platforms.
#[derive(Debug, Args)]
pub(crate) struct PlatformArgs {
    /// For a platform, such as linux/arm64; may be given many times
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// For all platforms
    #[arg(long)]
    pub(crate) all_platforms: bool,
}

impl PlatformArgs {
    /// Those that are named.
    pub(crate) fn named(&self) -> Result<Vec<Platform>> {
        if self.all_platforms && !self.platform.is_empty() {
            bail!("--platform and --all-platforms cannot be used together");
        }
        parse(&self.platform)
    }
}

/// Platforms by their short forms.
pub(crate) fn parse(texts: &[String]) -> Result<Vec<Platform>> {
    Ok(texts.iter().map(|text| Platform::parse(text)).collect::<Result<_, _>>()?)
}
