//! From and to archives.

use std::time::SystemTime;

use containerd_images::{
    Platform,
    adopt::Adopt,
    archive::{
        export::{ByteSink, Export},
        import::Import,
    },
    platform::Matcher,
    store::{ContentReader, Image},
};
use shim_protocol::{Error, Result};

use super::{ExportOptions, ImageSpec, Order, Transfers, lease::rfc3339, pull::record, targets};
use crate::fault;

impl Transfers {
    /// Takes the images of an archive, unpacks them and gives them the names
    /// that `spec` says. With `compress`, layers that come without compression
    /// get one, if the archive allows it.
    ///
    /// # Errors
    /// - `InvalidArgument` when it is no archive of images, or a malformed one;
    /// - `DataLoss` when it ends too early;
    /// - `FailedPrecondition` when content is not what it should be;
    /// - `NotFound` when of each image something is missing;
    /// - `Cancelled` when it was ended before its time; those of the archive and
    ///   of the disk.
    pub async fn import(
        &self,
        order: Order,
        archive: Box<dyn ContentReader>,
        compress: bool,
        spec: ImageSpec,
    ) -> Result<()> {
        self.own(order, |this, order| async move {
            let work = async |lease: &str| {
                this.import_under(&order, lease, archive, compress, &spec).await
            };
            this.under_lease(&order, work).await
        })
        .await
    }

    async fn import_under(
        &self,
        order: &Order,
        lease: &str,
        archive: Box<dyn ContentReader>,
        compress: bool,
        spec: &ImageSpec,
    ) -> Result<()> {
        let (store, watch, stop) = (self.store(order, lease), &order.watch, &order.stop);
        watch.note("Importing");
        let imported = Import { content: &store.content, compress, stop }.run(archive).await?;
        fault::point("import.read");
        let unpackers = self.unpackers(order, lease, &spec.unpacks)?;
        let adopt = Adopt {
            content: &store.content,
            selection: &spec.fetched(),
            unpack: &targets(&unpackers),
            tracker: &watch.tracker,
            stop,
        };
        adopt.run(&imported.index).await?;
        fault::point("import.adopted");
        let now = rfc3339(SystemTime::now());
        // The index as a whole only if it has a name of its own.
        match spec.images(&imported.index, &now) {
            Ok(images) => record(order, &store, images).await?,
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        for image in &imported.images {
            record(order, &store, spec.annotated(image, &now)).await?;
        }
        fault::point("import.recorded");
        watch.note("Completed import");
        Ok(())
    }

    /// Writes the images that `spec` names to an archive.
    ///
    /// # Errors
    /// - `NotFound` when there is no such image, a part of it is missing, or
    ///   there is none for the wanted platforms;
    /// - `InvalidArgument` when no image is named, or it is none;
    /// - `Unimplemented` when only beginnings of names are given;
    /// - `Cancelled` when it was ended before its time; those of the archive and
    ///   of the disk.
    pub async fn export(
        &self,
        order: Order,
        spec: ImageSpec,
        options: ExportOptions,
        mut archive: Box<dyn ByteSink>,
    ) -> Result<()> {
        self.own(order, |this, order| async move {
            let work = async |lease: &str| {
                this.export_under(&order, lease, &spec, &options, &mut *archive).await
            };
            this.under_lease(&order, work).await
        })
        .await
    }

    async fn export_under(
        &self,
        order: &Order,
        lease: &str,
        spec: &ImageSpec,
        options: &ExportOptions,
        archive: &mut dyn ByteSink,
    ) -> Result<()> {
        order.watch.note("Exporting");
        let images = self.named(order, spec).await?;
        let platforms = match options.platforms.is_empty() {
            true => Matcher::strict(&Platform::host()),
            false => Matcher::ordered(&options.platforms),
        };
        let export = Export {
            content: &self.content(order, lease),
            platforms: &platforms,
            all_platforms: options.all_platforms,
            skip_missing: false,
            skip_docker_manifest: options.skip_docker_manifest,
            skip_non_distributable: options.skip_non_distributable,
            stop: &order.stop,
        };
        export.run(&images, archive).await?;
        order.watch.note("Completed export");
        Ok(())
    }

    /// The images that are named.
    async fn named(&self, order: &Order, spec: &ImageSpec) -> Result<Vec<Image>> {
        if spec.names.iter().any(|rule| rule.is_prefix) {
            return Err(Error::unimplemented("export by the beginning of names"));
        }
        let first = Some(&spec.name).filter(|name| !name.is_empty());
        let further = spec.names.iter().map(|rule| &rule.name);
        let mut images = Vec::new();
        for name in first.into_iter().chain(further) {
            let image = self.0.images.get(&order.namespace, name).await?;
            images.push(Image { name: image.name, target: image.target, labels: image.labels });
        }
        match images.is_empty() {
            true => Err(Error::invalid("no image was named")),
            false => Ok(images),
        }
    }
}
