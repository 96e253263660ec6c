//! The daemon as a place where images are stored: what
//! [`containerd_images`] needs to move images on this side of the API.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_images::{
    Digest,
    store::{
        ContentInfo, ContentReader, ContentStore, ContentWriter, Image as StoredImage, ImageStore,
    },
};
use shim_protocol::Result;

use crate::{Namespace, Resource, content};

/// How much goes into one message: Go's daemon takes 16 MiB, and copies it all.
const PIECE_BYTES: usize = 1 << 20;

impl Namespace {
    /// This namespace as a place where images are stored, under the lease of
    /// this view if it has one.
    pub fn store(&self) -> Store {
        Store { namespace: self.clone() }
    }
}

/// The content and the images of a namespace.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) namespace: Namespace,
}

impl Store {
    /// Lets the lease hold content that is there; answers whether it still is.
    /// Our daemon has done so when it says that it is there, and Go's has not,
    /// and may be about to collect it.
    async fn hold(&self, digest: &Digest) -> Result<bool> {
        let Some(lease) = self.namespace.lease() else { return Ok(true) };
        let resource = Resource { id: digest.to_string(), kind: "content".into() };
        self.namespace.leases().add_resource(lease, resource).await?;
        Ok(self.info(digest).await?.is_some())
    }
}

#[async_trait]
impl ContentStore for Store {
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        match self.namespace.content().info(&digest.to_string()).await {
            Ok(info) => Ok(Some(ContentInfo { size: info.size, labels: info.labels })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>> {
        Ok(Box::new(Reader(self.namespace.content().read(&digest.to_string(), offset).await?)))
    }

    async fn write(
        &self,
        reference: &str,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<Box<dyn ContentWriter>> {
        let content = self.namespace.content();
        let named = expected.map(Digest::to_string);
        loop {
            match (content.write(reference, size, named.as_deref()).await, expected) {
                // It may have been collected before the lease held it.
                (Err(e), Some(digest)) if e.is_already_exists() && !self.hold(digest).await? => {}
                (writer, _) => return Ok(Box::new(Writer(writer?))),
            }
        }
    }

    async fn set_labels(&self, digest: &Digest, labels: BTreeMap<String, String>) -> Result<()> {
        let content = self.namespace.content();
        if labels.is_empty() {
            // A mask without a path would mean all of them.
            content.info(&digest.to_string()).await?;
        } else {
            content.set_labels(&digest.to_string(), labels).await?;
        }
        Ok(())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        match self.namespace.content().abort(reference).await {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }
}

struct Reader(content::ContentReader);

#[async_trait]
impl ContentReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.0.next().await? {
                Some(piece) if piece.is_empty() => {}
                piece => return Ok(piece.map(Bytes::from)),
            }
        }
    }
}

struct Writer(content::ContentWriter);

#[async_trait]
impl ContentWriter for Writer {
    fn offset(&self) -> u64 {
        self.0.offset()
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        for part in piece.chunks(PIECE_BYTES) {
            self.0.write(part.to_vec()).await?;
        }
        Ok(())
    }

    async fn clear(&mut self) -> Result<()> {
        self.0.clear();
        Ok(())
    }

    async fn commit(
        self: Box<Self>,
        size: u64,
        expected: Option<&Digest>,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest> {
        let expected = expected.map(Digest::to_string);
        Digest::parse(&self.0.commit(size, expected.as_deref(), labels).await?)
    }
}

#[async_trait]
impl ImageStore for Store {
    async fn get(&self, name: &str) -> Result<Option<StoredImage>> {
        match self.namespace.images().get(name).await {
            Ok(image) => Ok(Some(image.into())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<StoredImage>> {
        let images = self.namespace.images().list(filters).await?;
        Ok(images.into_iter().map(Into::into).collect())
    }

    async fn put(&self, image: StoredImage) -> Result<StoredImage> {
        Ok(self.namespace.images().put(image.into()).await?.into())
    }

    async fn delete(&self, name: &str, sync: bool) -> Result<()> {
        Ok(self.namespace.images().delete(name, sync).await?)
    }
}
