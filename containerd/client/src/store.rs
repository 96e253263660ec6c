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
use shim_protocol::{Error, ErrorKind, Result};

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
    /// Lets the lease hold content that a commit has found to be there. Our
    /// daemon has done so by then; Go's has not, and may be about to collect it
    /// (containerd, `plugins/services/content/contentserver`).
    ///
    /// # Errors
    /// `Aborted` when it was collected meanwhile: it has to be written again.
    pub(crate) async fn hold(&self, digest: &Digest) -> Result<()> {
        let Some(lease) = self.namespace.lease() else { return Ok(()) };
        let resource = Resource { id: digest.to_string(), kind: "content".into() };
        self.namespace.leases().add_resource(lease, resource).await?;
        match self.info(digest).await? {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Aborted, format!("content {digest} is gone again"))),
        }
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
        let expected = expected.map(Digest::to_string);
        let content = self.namespace.content();
        let writer = content.write(reference, size, expected.as_deref()).await?;
        Ok(Box::new(Writer { writer, store: self.clone() }))
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

struct Writer {
    writer: content::ContentWriter,
    store: Store,
}

#[async_trait]
impl ContentWriter for Writer {
    fn offset(&self) -> u64 {
        self.writer.offset()
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        for part in piece.chunks(PIECE_BYTES) {
            self.writer.write(part.to_vec()).await?;
        }
        Ok(())
    }

    async fn clear(&mut self) -> Result<()> {
        self.writer.clear();
        Ok(())
    }

    async fn commit(
        self: Box<Self>,
        size: u64,
        expected: Option<&Digest>,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest> {
        let Self { writer, store } = *self;
        let named = expected.map(Digest::to_string);
        match (writer.commit(size, named.as_deref(), labels).await, expected) {
            (Err(e), Some(digest)) if e.is_already_exists() => {
                store.hold(digest).await?;
                Err(e.into())
            }
            (committed, _) => Digest::parse(&committed?),
        }
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
