//! `ctr images delete`

use anyhow::{Result, bail};
use clap::Args;

use crate::{cli::Global, output, session};

/// Delete images and print their names. What is not there is passed over.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Return when what they alone held is gone
    #[arg(long)]
    sync: bool,
    /// Names of the images
    #[arg(required = true)]
    images: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let images = session::namespace(global).await?.images();
        let mut failed = 0;
        for (i, name) in self.images.iter().enumerate() {
            // One collection after the last is enough for all.
            let sync = self.sync && i + 1 == self.images.len();
            match images.delete(name, sync).await {
                Ok(()) => output::line(name)?,
                Err(e) if e.is_not_found() => tracing::warn!("{name}: image not found"),
                Err(e) => {
                    failed += 1;
                    eprintln!("ctr: {}", e.report());
                }
            }
        }
        match failed {
            0 => Ok(()),
            failed => bail!("{failed} of {} images were not deleted", self.images.len()),
        }
    }
}
