//! `ctr images tag`

use anyhow::Result;
use clap::Args;
use containerd_client::Reference;

use crate::{cli::Global, output, session};

/// Give an image further names, and print these.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// Take the names even if they stand for something else
    #[arg(long)]
    force: bool,
    /// Do it here and not in the daemon; it makes no difference
    #[arg(long)]
    local: bool,
    /// Take names that are no references
    #[arg(long)]
    skip_reference_check: bool,
    /// Name of the image
    image: String,
    /// Its further names
    #[arg(required = true)]
    names: Vec<String>,
}

impl Tag {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        for name in self.names.iter().filter(|_| !self.skip_reference_check) {
            Reference::parse_short(name)?;
        }
        let images = session::namespace(global).await?.images();
        for name in &self.names {
            images.tag(&self.image, name, self.force).await?;
            output::line(name)?;
        }
        Ok(())
    }
}
