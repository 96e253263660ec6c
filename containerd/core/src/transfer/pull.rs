//! From registries.

use std::time::SystemTime;

use containerd_images::{
    Reference,
    pull::Pull,
    registry::Registry,
    remote::Remote,
    store::{Image, ImageStore},
};
use shim_protocol::Result;
use tokio::sync::Semaphore;

use super::{ImageSpec, Order, Transfers, lease::rfc3339, store::Store, targets};
use crate::fault;

impl Transfers {
    /// Pulls the image `reference` from `registry`, unpacks it and gives it the
    /// names that `spec` says.
    ///
    /// # Errors
    /// - `NotFound` when there is no such image, none for the wanted platforms,
    ///   or no name was given for it;
    /// - `InvalidArgument` when the reference or the image is malformed;
    /// - `FailedPrecondition` when content is not what it should be;
    /// - `Cancelled` when it was ended before its time;
    /// - those of the registry, the disk and the snapshotter.
    pub async fn pull(
        &self,
        order: Order,
        registry: Registry,
        reference: Reference,
        spec: ImageSpec,
    ) -> Result<()> {
        self.own(order, |this, order| async move {
            let work = async |lease: &str| {
                this.pull_under(&order, lease, &registry, &reference, &spec).await
            };
            this.under_lease(&order, work).await
        })
        .await
    }

    async fn pull_under(
        &self,
        order: &Order,
        lease: &str,
        registry: &Registry,
        reference: &Reference,
        spec: &ImageSpec,
    ) -> Result<()> {
        let (store, watch) = (self.store(order, lease), &order.watch);
        let source = format!("OCI Registry ({reference})");
        watch.note(format!("Resolving from {source}"));
        let remote = Remote::new(registry.clone(), reference.clone());
        let resolved = order.stop.run_until_cancelled(remote.resolve()).await;
        let root = resolved.unwrap_or_else(|| Err(super::ended()))?;
        fault::point("pull.resolved");

        watch.note(format!("Pulling from {source}"));
        watch.note_image("fetching image content", &reference.to_string(), &root);
        let unpackers = self.unpackers(order, lease, &spec.unpacks)?;
        let pull = Pull {
            content: &store.content,
            source: &remote,
            origin: Some(&remote.origin()),
            selection: &spec.fetched(),
            unpack: &targets(&unpackers),
            downloads: &Semaphore::new(self.0.config.max_downloads),
            tracker: &watch.tracker,
            stop: &order.stop,
        };
        pull.run(&root).await?;
        fault::point("pull.fetched");

        let images = spec.images(&root, &rfc3339(SystemTime::now()))?;
        record(order, &store, images).await?;
        fault::point("pull.recorded");
        watch.note(format!("Completed pull from {source}"));
        Ok(())
    }
}

/// Records images, one after the other.
pub(super) async fn record(order: &Order, store: &Store, images: Vec<Image>) -> Result<()> {
    for image in images {
        let image = store.put(image).await?;
        order.watch.note_image("saved", &image.name, &image.target);
    }
    Ok(())
}
