//! The content and images of a namespace, as [`containerd_images`] wants them.

use async_trait::async_trait;
use containerd_images::store::{Image, ImageStore};
use shim_protocol::{ErrorKind, Result};

use crate::{
    content::View,
    images::{self, Images},
};

/// The content and images of a namespace.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) content: View,
    pub(super) images: Images,
}

#[async_trait]
impl ImageStore for Store {
    async fn get(&self, name: &str) -> Result<Option<Image>> {
        match self.images.get(&self.content.namespace, name).await {
            Ok(image) => Ok(Some(out(image))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Image>> {
        let found = self.images.list(&self.content.namespace, filters).await?;
        Ok(found.into_iter().map(out).collect())
    }

    async fn put(&self, image: Image) -> Result<Image> {
        let Image { name, target, labels } = image;
        let image = images::Image { labels, ..images::Image::new(name, target) };
        let lease = self.content.lease.as_deref();
        loop {
            match self.images.create(&self.content.namespace, image.clone(), None, lease).await {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                created => return created.map(out),
            }
            let all: [&str; 0] = [];
            match self
                .images
                .update(&self.content.namespace, image.clone(), &all, None, lease)
                .await
            {
                // Somebody has removed it meanwhile.
                Err(e) if e.is_not_found() => {}
                updated => return updated.map(out),
            }
        }
    }

    async fn delete(&self, name: &str, _sync: bool) -> Result<()> {
        self.images.delete(&self.content.namespace, name, None, self.content.lease.as_deref()).await
    }
}

fn out(image: images::Image) -> Image {
    Image { name: image.name, target: image.target, labels: image.labels }
}
