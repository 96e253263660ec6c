//! `ctr images prune`

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, output, session};

/// Delete images that no container is made from, and print their names.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// All of them; without this, nothing is deleted
    #[arg(long)]
    all: bool,
}

impl Prune {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        if !self.all {
            tracing::warn!("nothing is deleted without --all");
            return Ok(());
        }
        let namespace = session::namespace(global).await?;
        let images = namespace.images().list(&[]).await?;
        let containers = namespace.containers(&[]).await?;
        let used: BTreeSet<&str> = containers.iter().map(|c| c.record().image.as_str()).collect();
        let unused: Vec<_> = images.iter().filter(|i| !used.contains(i.name.as_str())).collect();
        for (i, image) in unused.iter().enumerate() {
            // One collection after the last is enough for all.
            match namespace.images().delete(&image.name, i + 1 == unused.len()).await {
                Ok(()) => output::line(&image.name)?,
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}
