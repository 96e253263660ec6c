//! `ctr images import`

use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{ImportOptions, NameRule, Platform, Where};

use crate::{
    cli::Global, labels, platforms::PlatformArgs, progress::Display, session,
    snapshotter::SnapshotterArgs, time,
};

/// Store the images of an archive: an OCI layout, or one of Docker's.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// What names of images begin with. Only images are stored whose names in
    /// the archive begin so, or are mere tags
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    base_name: String,
    /// Give images names with their digests, too
    #[arg(long)]
    digests: bool,
    /// But not those that have another name
    #[arg(long, requires = "digests")]
    skip_digest_for_named: bool,
    /// Give the index of all images a name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    index_name: String,
    #[command(flatten)]
    platforms: PlatformArgs,
    /// Do not unpack them
    #[arg(long)]
    no_unpack: bool,
    /// Store them from here and not in the daemon
    #[arg(long)]
    local: bool,
    /// Compress layers that are not (archives of Docker)
    #[arg(long)]
    compress_blobs: bool,
    /// Leave layers to the garbage collector when they are unpacked
    #[arg(long, conflicts_with = "no_unpack")]
    discard_unpacked_layers: bool,
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Add a label to the images
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// File with the archive; - is standard input
    archive: String,
}

impl Import {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let mut platforms = self.platforms.named()?;
        let unpacked = platforms.first().cloned().unwrap_or_else(Platform::host);
        if platforms.is_empty() && !self.platforms.all_platforms {
            platforms.push(unpacked.clone());
        }
        let namespace = session::namespace(global).await?;
        let snapshotter = self.snapshotter.name(&namespace).await?;
        let display = Display::new();
        let options = ImportOptions {
            names: vec![self.names()],
            index_name: self.index_name.clone(),
            platforms,
            labels: labels::parse(&self.label),
            unpack: (!self.no_unpack).then_some((unpacked, snapshotter)),
            compress: self.compress_blobs,
            discard_layers: self.discard_unpacked_layers,
            place: if self.local { Where::Local } else { Where::Anywhere },
            progress: Some(display.on_progress()),
        };
        let imported = if self.archive == "-" {
            namespace.import(tokio::io::stdin(), &options).await
        } else {
            let file = tokio::fs::File::open(&self.archive).await;
            let file = file.with_context(|| format!("open {}", self.archive))?;
            namespace.import(file, &options).await
        };
        display.done()?;
        Ok(imported?)
    }

    /// Which names images get.
    fn names(&self) -> NameRule {
        let today = time::rfc3339(Some(SystemTime::now()));
        let (name, allow_overwrite) = match self.base_name.as_str() {
            // Full names in the archive count more than one that is made up.
            "" => (format!("import-{}", today.split('T').next().unwrap_or_default()), true),
            name => (name.to_owned(), false),
        };
        NameRule {
            name,
            is_prefix: true,
            allow_overwrite,
            add_digest: self.digests,
            skip_named_digest: self.skip_digest_for_named,
        }
    }
}
