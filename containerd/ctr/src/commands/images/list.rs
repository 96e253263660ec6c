//! `ctr images list`

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use containerd_client::{Image, Images, platform::Matcher};

use crate::{cli::Global, labels, output, session, table::Table, units};

/// List images.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that a filter matches, such as name~=redis
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let images = session::namespace(global).await?.images();
        let list = images.list(&self.filters).await?;
        if self.quiet {
            for image in &list {
                output::line(&image.name)?;
            }
            return Ok(());
        }
        let mut table = Table::new(1, 1);
        table.line("REF\tTYPE\tDIGEST\tSIZE\tPLATFORMS\tLABELS\t");
        for image in &list {
            table.line(row(&images, image).await);
        }
        Ok(table.print()?)
    }
}

async fn row(images: &Images, image: &Image) -> String {
    let size = images.size(image, &Matcher::host()).await.unwrap_or_else(|error| {
        tracing::error!("size of image {}: {}", image.name, error.report());
        0
    });
    let platforms = images.platforms(image).await.unwrap_or_else(|error| {
        tracing::error!("platforms of image {}: {}", image.name, error.report());
        Vec::new()
    });
    let platforms: BTreeSet<String> = platforms.iter().map(ToString::to_string).collect();
    let platforms: Vec<String> = platforms.into_iter().collect();
    let platforms = or_dash(platforms.join(","));
    let labels = or_dash(labels::join(&image.labels));
    let Image { name, target, .. } = image;
    let size = units::binary(size);
    format!("{name}\t{}\t{}\t{size}\t{platforms}\t{labels}\t", target.media_type, target.digest)
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}
