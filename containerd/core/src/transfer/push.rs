//! To registries.

use containerd_images::{Reference, push::Push, registry::Registry, remote::Remote};
use shim_protocol::Result;
use tokio::sync::Semaphore;

use super::{ImageSpec, Order, Transfers};

impl Transfers {
    /// Pushes the image that `spec` names to `registry`, as `reference`.
    ///
    /// # Errors
    /// - `NotFound` when there is no such image, a part of it is missing, or
    ///   there is none for the wanted platforms;
    /// - `InvalidArgument` when it is malformed;
    /// - `Cancelled` when it was ended before its time; those of the registry.
    pub async fn push(
        &self,
        order: Order,
        spec: ImageSpec,
        registry: Registry,
        reference: Reference,
    ) -> Result<()> {
        self.own(order, |this, order| async move {
            let work = async |lease: &str| {
                this.push_under(&order, lease, &spec, registry, reference).await
            };
            this.under_lease(&order, work).await
        })
        .await
    }

    async fn push_under(
        &self,
        order: &Order,
        lease: &str,
        spec: &ImageSpec,
        registry: Registry,
        reference: Reference,
    ) -> Result<()> {
        let image = self.0.images.get(&order.namespace, &spec.name).await?;
        let watch = &order.watch;
        let destination = format!("OCI Registry ({reference})");
        watch.note(format!("Pushing to {destination}"));
        watch.note_image("pushing content", &image.name, &image.target);
        let remote = Remote::new(registry, reference);
        let push = Push {
            content: &self.content(order, lease),
            sink: &remote,
            origin: Some(&remote.origin()),
            selection: &spec.pushed(),
            uploads: &Semaphore::new(self.0.config.max_uploads),
            tracker: &watch.tracker,
            stop: &order.stop,
        };
        push.run(&image.target).await?;
        watch.note_image("pushed content", &image.name, &image.target);
        watch.note(format!("Completed push to {destination}"));
        Ok(())
    }
}
