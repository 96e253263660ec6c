//! `ctr images convert`

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::ConvertOptions;

use crate::{cli::Global, output, platforms::PlatformArgs, session};

/// Make an image of another one, and print its digest: with layers that are not
/// compressed, or in the media types of the OCI image specification.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Take the compression from layers
    #[arg(long)]
    uncompress: bool,
    /// Give what has Docker's media types those of the OCI image specification
    #[arg(long)]
    oci: bool,
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    formats: Formats,
    /// Name of the image
    image: String,
    /// Name of the new one
    target: String,
}

/// Formats of layers that other programs can make: known, so that they are
/// refused by their names.
#[derive(Debug, Args)]
struct Formats {
    #[arg(long, hide = true)]
    estargz: bool,
    #[arg(long, hide = true)]
    zstdchunked: bool,
    #[arg(long, hide = true)]
    nydus: bool,
    #[arg(long, hide = true)]
    overlaybd: bool,
    #[arg(long, hide = true)]
    soci: bool,
    #[arg(long, hide = true, value_name = "FORMAT")]
    erofs: Option<String>,
    #[arg(long, hide = true, value_name = "NAMES")]
    erofs_compressors: Option<String>,
    #[arg(long, hide = true, value_name = "OPTIONS", allow_hyphen_values = true)]
    erofs_mkfs_options: Option<String>,
}

impl Formats {
    /// The flag of the first one that is wanted.
    fn wanted(&self) -> Option<&'static str> {
        let erofs = [&self.erofs, &self.erofs_compressors, &self.erofs_mkfs_options];
        let flags = [
            (self.estargz, "--estargz"),
            (self.zstdchunked, "--zstdchunked"),
            (self.nydus, "--nydus"),
            (self.overlaybd, "--overlaybd"),
            (self.soci, "--soci"),
            (erofs.iter().any(|value| value.is_some()), "--erofs"),
        ];
        flags.into_iter().find_map(|(wanted, flag)| wanted.then_some(flag))
    }
}

impl Convert {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        if let Some(flag) = self.formats.wanted() {
            bail!("{flag}: layers of this format cannot be made here, only --uncompress and --oci");
        }
        let options = ConvertOptions {
            platforms: self.platforms.named()?,
            all_platforms: self.platforms.all_platforms,
            uncompress: self.uncompress,
            oci: self.oci,
        };
        let images = session::namespace(global).await?.images();
        let image = images.convert(&self.image, &self.target, &options).await?;
        Ok(output::line(&image.target.digest)?)
    }
}
