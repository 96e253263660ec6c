//! `ctr images mount`

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::{
    ImageContents, Images, Lease, Namespace, Platform, RootMount, mount, platform::Matcher,
};

use crate::{cli::Global, output, session, snapshotter::SnapshotterArgs, time};

/// Mount the files of an image on a folder, and print its chain id and the
/// folder. `ctr images unmount` undoes it.
#[derive(Debug, Args)]
pub(crate) struct Mount {
    #[command(flatten)]
    snapshotter: SnapshotterArgs,
    /// Let the files be changed there; the image stays as it is
    #[arg(long)]
    rw: bool,
    /// Platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// How long the snapshot is kept at least
    #[arg(short = 'x', long, value_parser = time::parse_duration, default_value = "1h", value_name = "DURATION")]
    expiration: Duration,
    /// Name of the image
    image: String,
    /// The folder; without one, the snapshotter's own folder is printed if it
    /// has the files in one
    target: Option<String>,
}

impl Mount {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        let snapshotter = self.snapshotter.name(&namespace).await?;
        let platforms = match &self.platform {
            Some(text) => Matcher::only(&Platform::parse(text)?),
            None => Matcher::host(),
        };
        let images = namespace.images();
        let contents = images.contents(&images.get(&self.image).await?, &platforms).await?;
        // Lease and snapshot are called as the folder: so `unmount` finds them.
        let random = || format!("ctr-images-mount-{}", Lease::random_id());
        let key = self.target.clone().unwrap_or_else(random);
        let labels = [Lease::expires(self.expiration)].into();
        let is_new = match namespace.leases().create(&key, labels).await {
            Ok(_) => true,
            // Somebody has mounted it before.
            Err(e) if e.is_already_exists() => false,
            Err(e) => return Err(e.into()),
        };
        let result = self.mount(&namespace.with_lease(&key), &contents, &snapshotter, &key).await;
        if result.is_err() && is_new {
            undo(&namespace, &images, &snapshotter, &key).await;
        }
        Ok(output::line(result?)?)
    }

    /// Answers where the files are.
    async fn mount(
        &self,
        namespace: &Namespace,
        contents: &ImageContents,
        snapshotter: &str,
        key: &str,
    ) -> Result<String> {
        let images = namespace.images();
        let chain_id = images.unpack(contents, snapshotter).await?;
        output::line(chain_id)?;
        let mounts = images.open_snapshot(contents, snapshotter, key, self.rw).await?;
        let Some(target) = &self.target else {
            return match &mounts[..] {
                [RootMount { kind, source, .. }] if kind == "bind" => Ok(source.clone()),
                _ => bail!("a folder is needed to mount on: the files are in several"),
            };
        };
        let folder = std::path::absolute(target)?;
        let work = move || mount::mount_all(&mounts, &folder);
        tokio::task::spawn_blocking(work).await.context("mount")??;
        Ok(target.clone())
    }
}

async fn undo(namespace: &Namespace, images: &Images, snapshotter: &str, key: &str) {
    let removed = images.remove_snapshot(snapshotter, key).await;
    let deleted = namespace.leases().delete(key, false).await;
    for error in removed.err().into_iter().chain(deleted.err()) {
        tracing::error!("cannot clean up: {}", error.report());
    }
}

/// Unmounts what is on a folder.
pub(super) async fn unmount(target: &str) -> Result<()> {
    let folder = Path::new(target).to_owned();
    let work = move || mount::unmount_all(&std::path::absolute(&folder)?).map_err(Into::into);
    tokio::task::spawn_blocking(work).await.context("unmount")?
}
