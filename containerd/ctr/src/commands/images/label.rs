//! `ctr images label`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, labels, output, session};

/// Set labels of an image and print all it has. An empty value clears one.
#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Clear all others
    #[arg(short, long)]
    replace_all: bool,
    /// Name of the image
    image: String,
    /// Labels
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Label {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let images = session::namespace(global).await?.images();
        let labels = labels::parse(&self.labels);
        let image = match self.replace_all {
            true => images.replace_labels(&self.image, labels).await?,
            false => images.set_labels(&self.image, labels).await?,
        };
        Ok(output::line(labels::join(&image.labels))?)
    }
}
