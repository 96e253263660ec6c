//! The images of a namespace.

use std::collections::BTreeMap;

use containerd_api::services::images::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Wire, ListImagesRequest,
    UpdateImageRequest, images_client::ImagesClient,
};
use containerd_images::Descriptor;
use prost_types::FieldMask;
use tonic::transport::Channel;

use crate::{
    Context, Image, Namespace, Result, client::MAX_MESSAGE_BYTES, image::descriptor_to_wire,
};

impl Namespace {
    /// The images of this namespace.
    pub fn images(&self) -> Images {
        Images { namespace: self.clone() }
    }
}

/// The images of a namespace.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) namespace: Namespace,
}

impl Images {
    fn stub(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.namespace.client().channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The image of that name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, name: &str) -> Result<Image> {
        const ACTION: &str = "get image";
        let request = self.namespace.request(GetImageRequest { name: name.into() })?;
        let response = self.stub().get(request).await.context(ACTION, name)?;
        Image::from_wire(ACTION, response.into_inner().image)
    }

    /// The images that one of `filters` matches; all if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Image>> {
        const ACTION: &str = "list images";
        let request = self.namespace.request(ListImagesRequest { filters: filters.to_vec() })?;
        let response = self.stub().list(request).await.context(ACTION, "")?;
        let images = response.into_inner().images.into_iter();
        images.map(|wire| Image::from_wire(ACTION, Some(wire))).collect()
    }

    /// Makes an image. Its times are the daemon's.
    ///
    /// # Errors
    /// `AlreadyExists`, or `InvalidArgument` when the name or a label is bad.
    pub async fn create(&self, image: Image) -> Result<Image> {
        const ACTION: &str = "create image";
        let name = image.name.clone();
        let message = CreateImageRequest { image: Some(image.into_wire()?), ..Default::default() };
        let response = self.stub().create(self.namespace.request(message)?).await;
        Image::from_wire(ACTION, response.context(ACTION, name)?.into_inner().image)
    }

    /// Makes an image, or gives the one of that name its target and labels.
    ///
    /// # Errors
    /// `InvalidArgument` when the name or a label is bad.
    pub async fn put(&self, image: Image) -> Result<Image> {
        loop {
            match self.create(image.clone()).await {
                Err(e) if e.is_already_exists() => {}
                made => return made,
            }
            match self.update(image.clone().into_wire()?, Vec::new()).await {
                // Somebody has deleted it in between.
                Err(e) if e.is_not_found() => {}
                changed => return changed,
            }
        }
    }

    /// Gives an image another target.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn set_target(&self, name: &str, target: Descriptor) -> Result<Image> {
        let target = Some(descriptor_to_wire(target)?);
        let wire = Wire { name: name.into(), target, ..Wire::default() };
        self.update(wire, vec!["target".into()]).await
    }

    /// Sets labels; an empty value removes one, and others stay.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a label is bad.
    pub async fn set_labels(&self, name: &str, labels: BTreeMap<String, String>) -> Result<Image> {
        if labels.is_empty() {
            // A mask without a path would mean all of it.
            return self.get(name).await;
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        self.update(Wire { name: name.into(), labels, ..Wire::default() }, paths).await
    }

    /// Sets labels in place of those that it has.
    ///
    /// # Errors
    /// As [`Images::set_labels`].
    pub async fn replace_labels(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Image> {
        let wire = Wire { name: name.into(), labels, ..Wire::default() };
        self.update(wire, vec!["labels".into()]).await
    }

    async fn update(&self, wire: Wire, paths: Vec<String>) -> Result<Image> {
        const ACTION: &str = "update image";
        let name = wire.name.clone();
        let update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
        let message = UpdateImageRequest { image: Some(wire), update_mask, ..Default::default() };
        let response = self.stub().update(self.namespace.request(message)?).await;
        Image::from_wire(ACTION, response.context(ACTION, name)?.into_inner().image)
    }

    /// Forgets a name. With `sync`, what only this image held is gone on
    /// return.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, name: &str, sync: bool) -> Result<()> {
        let message = DeleteImageRequest { name: name.into(), sync, target: None };
        let request = self.namespace.request(message)?;
        self.stub().delete(request).await.context("delete image", name)?;
        Ok(())
    }

    /// Gives an image a second name. With `force`, that name may stand for
    /// something else.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` without `force`; `InvalidArgument` when the
    /// new name is bad.
    pub async fn tag(&self, name: &str, new: &str, force: bool) -> Result<Image> {
        let image = Image { name: new.into(), ..self.get(name).await? };
        if force { self.put(image).await } else { self.create(image).await }
    }
}
