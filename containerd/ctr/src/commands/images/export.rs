//! `ctr images export`

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{ExportOptions, Where};

use crate::{cli::Global, platforms::PlatformArgs, session};

/// Write images into an archive: an OCI layout that Docker can read, too.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Leave out what makes it one of Docker's archives, too
    #[arg(long)]
    skip_manifest_json: bool,
    /// Leave out layers that must not be given on, such as those of Windows
    #[arg(long)]
    skip_non_distributable: bool,
    #[command(flatten)]
    platforms: PlatformArgs,
    /// Write it from here and not from the daemon
    #[arg(long)]
    local: bool,
    /// File for the archive; - is standard output
    archive: String,
    /// Names of the images
    #[arg(required = true)]
    images: Vec<String>,
}

impl Export {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let options = ExportOptions {
            platforms: self.platforms.named()?,
            all_platforms: self.platforms.all_platforms,
            skip_docker_manifest: self.skip_manifest_json,
            skip_non_distributable: self.skip_non_distributable,
            place: if self.local { Where::Local } else { Where::Anywhere },
            progress: None,
        };
        let namespace = session::namespace(global).await?;
        if self.archive == "-" {
            return Ok(namespace.export(&self.images, tokio::io::stdout(), &options).await?);
        }
        let file = tokio::fs::File::create(&self.archive).await;
        let file = file.with_context(|| format!("create {}", self.archive))?;
        let exported = namespace.export(&self.images, file, &options).await;
        if exported.is_err() {
            // Half an archive is of no use to anybody.
            let _ = tokio::fs::remove_file(&self.archive).await;
        }
        Ok(exported?)
    }
}
