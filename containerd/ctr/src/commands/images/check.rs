//! `ctr images check`

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::{Image, ImageCheck, Images, platform::Matcher};

use crate::{cli::Global, output, session, snapshotter::SnapshotterArgs, table::Table, units};

/// See whether all content of images is there, and whether they are unpacked.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print the names of complete and unpacked images only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Only images that a filter matches, such as name~=redis
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Check {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        let snapshotter = self.snapshotter.name(&namespace).await?;
        let images = namespace.images();
        let mut failed = 0;
        let mut table = Table::with_header(1, 1, "REF\tTYPE\tDIGEST\tSTATUS\tSIZE\tUNPACKED\t");
        let list = images.list(&self.filters).await?;
        for image in &list {
            let check = images.check(image, &Matcher::host()).await;
            let unpacked = is_unpacked(&images, image, &snapshotter).await;
            for error in check.as_ref().err().into_iter().chain(unpacked.as_ref().err()) {
                failed += 1;
                eprintln!("ctr: check {}: {}", image.name, error.report());
            }
            let unpacked = unpacked.unwrap_or(false);
            let (complete, status, size) = match &check {
                Ok(check) => describe(check),
                Err(_) => (false, "error".into(), "-".into()),
            };
            if self.quiet && complete && unpacked {
                output::line(&image.name)?;
            }
            let Image { name, target, .. } = image;
            let (kind, digest) = (&target.media_type, &target.digest);
            table.line(format!("{name}\t{kind}\t{digest}\t{status}\t{size}\t{unpacked}"));
        }
        if !self.quiet && !list.is_empty() {
            table.print()?;
        }
        match failed {
            0 => Ok(()),
            _ => bail!("not all images could be checked"),
        }
    }
}

async fn is_unpacked(
    images: &Images,
    image: &Image,
    snapshotter: &str,
) -> containerd_client::Result<bool> {
    match images.contents(image, &Matcher::host()).await {
        Ok(contents) => images.is_unpacked(&contents, snapshotter).await,
        // Without a configuration nobody knows what it would be unpacked to.
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(e),
    }
}

fn describe(check: &ImageCheck) -> (bool, String, String) {
    let size = |parts: &[containerd_client::Descriptor]| {
        units::binary(parts.iter().map(|part| part.size).sum())
    };
    let (present, required) = (&check.present, &check.required);
    if !check.available {
        let status = format!("unavailable ({}/?)", present.len());
        return (false, status, format!("{}/?", size(present)));
    }
    let complete = present.len() == required.len();
    let word = if complete { "complete" } else { "incomplete" };
    let status = format!("{word} ({}/{})", present.len(), required.len());
    (complete, status, format!("{}/{}", size(present), size(required)))
}
