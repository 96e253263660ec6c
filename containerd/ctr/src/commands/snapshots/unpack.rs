//! `ctr snapshots unpack`

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{Namespace, Platform, platform::Matcher};

use crate::output;

/// Unpack an image into snapshots.
#[derive(Debug, Args)]
pub(crate) struct Unpack {
    /// Digest of what the image stands for
    digest: String,
}

impl Unpack {
    pub(super) async fn run(self, namespace: &Namespace, snapshotter: &str) -> Result<()> {
        let images = namespace.images();
        let all = images.list(&[]).await?;
        let is_wanted =
            |image: &&containerd_client::Image| image.target.digest.to_string() == self.digest;
        let image = all.iter().find(is_wanted).context("manifest not found")?;
        let mut stdout = io::stdout();
        write!(stdout, "unpacking {} ({})...", self.digest, image.target.media_type)?;
        stdout.flush()?;
        let unpacked = async {
            let contents = images.contents(image, &Matcher::only(&Platform::host())).await?;
            images.unpack(&contents, snapshotter).await
        };
        match unpacked.await {
            Ok(_) => Ok(output::line("done")?),
            Err(e) => {
                output::line("")?;
                Err(e.into())
            }
        }
    }
}
