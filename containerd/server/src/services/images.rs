//! `containerd.services.images.v1.Images`.

use std::time::SystemTime;

use containerd_api::services::images::v1 as api;
use containerd_core::{
    content::Digest,
    gc::Scheduler,
    images::{Image, Images},
};
use shim_protocol::{Id, Result};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    convert::{descriptor_in, descriptor_out, required, time_in},
    headers,
};
use crate::status;

pub(super) struct Service {
    pub(super) images: Images,
    pub(super) gc: Scheduler,
}

fn encode(image: Image) -> api::Image {
    api::Image {
        name: image.name,
        labels: image.labels,
        target: Some(descriptor_out(image.target)),
        created_at: Some(image.created_at.into()),
        updated_at: Some(image.updated_at.into()),
    }
}

fn decode(image: Option<api::Image>) -> Result<Image> {
    let image = required("image", image)?;
    let target = descriptor_in(required("target of the image", image.target)?)?;
    // The store sets its times.
    let mut decoded = Image::new(image.name, target);
    decoded.labels = image.labels;
    Ok(decoded)
}

fn whence(metadata: &MetadataMap) -> Result<(Id, Option<&str>)> {
    Ok((headers::namespace(metadata)?, headers::lease(metadata)?))
}

fn time(at: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>> {
    at.map(time_in).transpose()
}

impl Service {
    async fn create(&self, request: Request<api::CreateImageRequest>) -> Result<Image> {
        let (metadata, _, request) = request.into_parts();
        let (namespace, lease) = whence(&metadata)?;
        let image = decode(request.image)?;
        self.images.create(&namespace, image, time(request.source_date_epoch)?, lease).await
    }

    async fn update(&self, request: Request<api::UpdateImageRequest>) -> Result<Image> {
        let (metadata, _, request) = request.into_parts();
        let (namespace, lease) = whence(&metadata)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let mut image = required("image", request.image)?;
        let at = time(request.source_date_epoch)?;
        if !paths.is_empty() && !paths.iter().any(|path| path == "target") {
            // It need not be told, or may say no more than some annotations.
            let annotations = image.target.take().unwrap_or_default().annotations;
            let old = self.images.get(&namespace, &image.name).await?;
            let target =
                containerd_api::types::Descriptor { annotations, ..descriptor_out(old.target) };
            image.target = Some(target);
        }
        self.images.update(&namespace, decode(Some(image))?, &paths, at, lease).await
    }

    async fn delete(&self, request: Request<api::DeleteImageRequest>) -> Result<()> {
        let (metadata, _, request) = request.into_parts();
        let (namespace, lease) = whence(&metadata)?;
        let target = match request.target.filter(|target| !target.digest.is_empty()) {
            Some(target) => Some(Digest::parse(&target.digest)?),
            None => None,
        };
        self.images.delete(&namespace, &request.name, target.as_ref(), lease).await?;
        if request.sync {
            self.gc.collect().await?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl api::images_server::Images for Service {
    async fn get(
        &self,
        request: Request<api::GetImageRequest>,
    ) -> Result<Response<api::GetImageResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let image = self.images.get(&namespace, &request.get_ref().name).await;
        let image = Some(encode(image.map_err(status::of)?));
        Ok(Response::new(api::GetImageResponse { image }))
    }

    async fn list(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let found = self.images.list(&namespace, &request.get_ref().filters).await;
        let images = found.map_err(status::of)?.into_iter().map(encode).collect();
        Ok(Response::new(api::ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<api::CreateImageRequest>,
    ) -> Result<Response<api::CreateImageResponse>, Status> {
        let image = Some(encode(Self::create(self, request).await.map_err(status::of)?));
        Ok(Response::new(api::CreateImageResponse { image }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateImageRequest>,
    ) -> Result<Response<api::UpdateImageResponse>, Status> {
        let image = Some(encode(Self::update(self, request).await.map_err(status::of)?));
        Ok(Response::new(api::UpdateImageResponse { image }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        Self::delete(self, request).await.map(Response::new).map_err(status::of)
    }
}
