//! `containerd.services.transfer.v1.Transfer`.

mod progress;
mod registry;

use containerd_api::{
    from_any,
    services::transfer::v1 as api,
    types::{Platform as WirePlatform, transfer as wire},
};
use containerd_core::transfer::{
    ByteSink, ContentReader, ExportOptions, ImageSpec, NameRule, Order, Transfers, UnpackTo, Watch,
};
use containerd_images::{Platform, Reference, registry::Registry};
use prost_types::Any;
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert::required,
    headers,
    streaming::{Receiving, Sending, Streams},
};
use crate::status;

pub(super) struct Service {
    pub(super) transfers: Transfers,
    pub(super) streams: Streams,
    /// Folders in which registries are configured.
    pub(super) hosts_dirs: Vec<std::path::PathBuf>,
    /// Ends transfers when the daemon drains.
    pub(super) stop: CancellationToken,
}

/// Where images come from, or go to.
enum End {
    Images(Box<ImageSpec>),
    Registry(Registry, Box<Reference>),
    Import(wire::ImageImportStream),
    Export(wire::ImageExportStream),
}

impl End {
    /// What it is called in errors and in progress.
    fn name(&self) -> &str {
        match self {
            Self::Images(spec) => &spec.name,
            Self::Registry(..) => "registry",
            Self::Import(_) => "archive to import",
            Self::Export(_) => "archive to export",
        }
    }
}

/// A platform of the API in the terms of the OCI image specification.
fn platform_in(platform: WirePlatform) -> Platform {
    let WirePlatform { os, architecture, variant, os_version, os_features } = platform;
    Platform { os, architecture, variant, os_version, os_features }.normalize()
}

fn platforms_in(platforms: Vec<WirePlatform>) -> Vec<Platform> {
    platforms.into_iter().map(platform_in).collect()
}

fn images_in(store: wire::ImageStore) -> ImageSpec {
    let rule = |rule: wire::ImageReference| NameRule {
        name: rule.name,
        is_prefix: rule.is_prefix,
        allow_overwrite: rule.allow_overwrite,
        add_digest: rule.add_digest,
        skip_named_digest: rule.skip_named_digest,
    };
    let unpack = |unpack: wire::UnpackConfiguration| UnpackTo {
        platform: unpack.platform.map_or_else(Platform::host, platform_in),
        snapshotter: unpack.snapshotter,
    };
    ImageSpec {
        name: store.name,
        labels: store.labels,
        platforms: platforms_in(store.platforms),
        all_metadata: store.all_metadata,
        manifest_limit: usize::try_from(store.manifest_limit).unwrap_or(usize::MAX),
        names: store.extra_references.into_iter().map(rule).collect(),
        unpacks: store.unpacks.into_iter().map(unpack).collect(),
    }
}

fn decode<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M> {
    from_any(any).map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, "source or destination of a transfer", e)
    })
}

impl Service {
    /// What a client means by a source or destination.
    fn end(&self, namespace: &Id, any: &Any) -> Result<End> {
        let url = any.type_url.as_str();
        // Anything up to a last slash may be before the name.
        match url.rsplit_once('/').map_or(url, |(_, name)| name) {
            "containerd.types.transfer.ImageStore" => {
                Ok(End::Images(Box::new(images_in(decode(any)?))))
            }
            "containerd.types.transfer.OCIRegistry" => {
                let (registry, reference) = self.registry(namespace, decode(any)?)?;
                Ok(End::Registry(registry, Box::new(reference)))
            }
            "containerd.types.transfer.ImageImportStream" => Ok(End::Import(decode(any)?)),
            "containerd.types.transfer.ImageExportStream" => Ok(End::Export(decode(any)?)),
            _ => Err(Error::invalid(format!("nothing is transferred from or to a {url:?}"))),
        }
    }

    async fn run(&self, request: Request<api::TransferRequest>) -> Result<()> {
        let namespace = headers::namespace(request.metadata())?;
        let lease = headers::lease(request.metadata())?.map(str::to_owned);
        let request = request.into_inner();
        let progress = request.options.map(|options| options.progress_stream);
        let progress = match progress.filter(|id| !id.is_empty()) {
            Some(id) => Some(self.streams.take(&namespace, &id)?),
            None => None,
        };
        let source = self.end(&namespace, &required("source", request.source)?)?;
        let destination = self.end(&namespace, &required("destination", request.destination)?)?;
        let moving = match &destination {
            End::Registry(..) => "uploading",
            _ => "downloading",
        };
        let root = match (&source, &destination) {
            (End::Images(spec), _) | (_, End::Images(spec)) => spec.name.clone(),
            _ => String::new(),
        };
        let (watch, notes) = Watch::new(&root);
        let teller = progress.map(|stream| progress::Teller {
            stream,
            tracker: watch.tracker.clone(),
            notes,
            moving,
        });
        // If the client goes away, this ends, and the transfer with it.
        let stop = self.stop.child_token();
        let order = Order { namespace, lease, watch, stop };
        let transfer = self.transfer(order, source, destination);
        match teller {
            Some(teller) => teller.during(transfer).await,
            None => transfer.await,
        }
    }

    async fn transfer(&self, order: Order, source: End, destination: End) -> Result<()> {
        let transfers = &self.transfers;
        match (source, destination) {
            (End::Registry(registry, reference), End::Images(spec)) => {
                transfers.pull(order, registry, *reference, *spec).await
            }
            (End::Images(spec), End::Registry(registry, reference)) => {
                transfers.push(order, *spec, registry, *reference).await
            }
            (End::Import(archive), End::Images(spec)) => {
                let bytes = Receiving::new(self.streams.take(&order.namespace, &archive.stream)?);
                transfers.import(order, Box::new(bytes), archive.force_compress, *spec).await
            }
            (End::Images(spec), End::Export(archive)) => self.export(order, *spec, archive).await,
            (End::Images(from), End::Images(to)) => transfers.tag(order, *from, *to).await,
            (End::Import(from), End::Export(to)) => self.echo(order, from, to).await,
            (source, destination) => Err(Error::unimplemented(format!(
                "transfer from {} to {}",
                source.name(),
                destination.name()
            ))),
        }
    }

    async fn export(
        &self,
        order: Order,
        spec: ImageSpec,
        archive: wire::ImageExportStream,
    ) -> Result<()> {
        let stream = self.streams.take(&order.namespace, &archive.stream)?;
        let options = ExportOptions {
            platforms: platforms_in(archive.platforms),
            all_platforms: archive.all_platforms,
            skip_docker_manifest: archive.skip_compatibility_manifest,
            skip_non_distributable: archive.skip_non_distributable,
        };
        let failing = stream.failing();
        let exported =
            self.transfers.export(order, spec, options, Box::new(Sending::new(stream))).await;
        if let Err(error) = &exported {
            failing.fail(error).await;
        }
        exported
    }

    /// Sends back what comes, which is good for tests (as in containerd).
    async fn echo(
        &self,
        order: Order,
        from: wire::ImageImportStream,
        to: wire::ImageExportStream,
    ) -> Result<()> {
        let mut from = Receiving::new(self.streams.take(&order.namespace, &from.stream)?);
        let mut to = Sending::new(self.streams.take(&order.namespace, &to.stream)?);
        while let Some(piece) = from.next().await? {
            to.write(piece).await?;
        }
        to.end().await
    }
}

#[tonic::async_trait]
impl api::transfer_server::Transfer for Service {
    async fn transfer(
        &self,
        request: Request<api::TransferRequest>,
    ) -> Result<Response<()>, Status> {
        self.run(request).await.map(Response::new).map_err(status::of)
    }
}

#[cfg(test)]
mod tests;
