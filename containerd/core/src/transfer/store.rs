//! The content and images of a namespace, as [`containerd_images`] wants them.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use containerd_images::{
    Digest,
    store::{ContentInfo, ContentReader, ContentStore, ContentWriter, Image, ImageStore},
};
use shim_protocol::{Error, ErrorKind, Id, Result};

use crate::{
    content::{Blob, Content, Ingestion, Writer},
    images::{self, Images},
};

/// How much is read or written at once, in bytes.
const PIECE_BYTES: usize = 512 << 10;

/// The content and images of a namespace, under a lease.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) content: Content,
    pub(super) images: Images,
    pub(super) namespace: Id,
    pub(super) lease: String,
}

#[async_trait]
impl ContentStore for Store {
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        match self.content.info(&self.namespace, digest).await {
            Ok(info) => Ok(Some(ContentInfo { size: info.size, labels: info.labels })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>> {
        let blob = self.content.read(&self.namespace, digest).await?;
        Ok(Box::new(Reading { blob: Arc::new(blob), offset }))
    }

    async fn write(
        &self,
        reference: &str,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<Box<dyn ContentWriter>> {
        let ingestion = Ingestion {
            reference: reference.to_owned(),
            total: size,
            expected: expected.cloned(),
            lease: Some(self.lease.clone()),
        };
        let writer = self.content.writer(&self.namespace, ingestion).await?;
        let offset = writer.status()?.offset;
        Ok(Box::new(Writing { writer, offset, waiting: BytesMut::new() }))
    }

    async fn set_labels(&self, digest: &Digest, labels: BTreeMap<String, String>) -> Result<()> {
        let paths: Vec<_> = labels.keys().map(|key| format!("labels.{key}")).collect();
        if paths.is_empty() {
            // No path would stand for all labels.
            return self.content.info(&self.namespace, digest).await.map(drop);
        }
        self.content.update(&self.namespace, digest, labels, &paths).await.map(drop)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        match self.content.abort(&self.namespace, reference, Some(&self.lease)).await {
            Err(e) if e.is_not_found() => Ok(()),
            aborted => aborted,
        }
    }
}

/// A blob that is being read.
struct Reading {
    blob: Arc<Blob>,
    offset: u64,
}

#[async_trait]
impl ContentReader for Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let (blob, offset) = (self.blob.clone(), self.offset);
        let left = blob.size().saturating_sub(offset);
        let length = PIECE_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; length];
            let read = blob.read_at(offset, &mut piece)?;
            piece.truncate(read);
            Ok::<_, Error>(piece)
        });
        let piece =
            read.await.map_err(|e| Error::caused(ErrorKind::Internal, "read content", e))??;
        if piece.len() != length {
            return Err(Error::new(ErrorKind::DataLoss, "content is shorter than it was"));
        }
        self.offset += length as u64;
        Ok(Some(piece.into()))
    }
}

/// Content that is being written.
struct Writing {
    writer: Writer,
    offset: u64,
    /// What has come, but is not worth a write yet. It is lost if the transfer
    /// breaks off, and has to come again.
    waiting: BytesMut,
}

impl Writing {
    async fn flush(&mut self) -> Result<()> {
        self.writer.write(self.waiting.split().freeze()).await
    }
}

#[async_trait]
impl ContentWriter for Writing {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.offset += piece.len() as u64;
        if self.waiting.is_empty() && piece.len() >= PIECE_BYTES {
            return self.writer.write(piece).await;
        }
        self.waiting.extend_from_slice(&piece);
        if self.waiting.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn clear(&mut self) -> Result<()> {
        self.waiting.clear();
        self.offset = 0;
        self.writer.clear().await
    }

    async fn commit(
        mut self: Box<Self>,
        size: u64,
        expected: Option<&Digest>,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest> {
        self.flush().await?;
        self.writer.commit(size, expected.cloned(), labels).await
    }
}

#[async_trait]
impl ImageStore for Store {
    async fn get(&self, name: &str) -> Result<Option<Image>> {
        match self.images.get(&self.namespace, name).await {
            Ok(image) => Ok(Some(out(image))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Image>> {
        let found = self.images.list(&self.namespace, filters).await?;
        Ok(found.into_iter().map(out).collect())
    }

    async fn put(&self, image: Image) -> Result<Image> {
        let Image { name, target, labels } = image;
        let image = images::Image { labels, ..images::Image::new(name, target) };
        let lease = Some(self.lease.as_str());
        loop {
            match self.images.create(&self.namespace, image.clone(), None, lease).await {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                created => return created.map(out),
            }
            let all: [&str; 0] = [];
            match self.images.update(&self.namespace, image.clone(), &all, None, lease).await {
                // Somebody has removed it meanwhile.
                Err(e) if e.is_not_found() => {}
                updated => return updated.map(out),
            }
        }
    }

    async fn delete(&self, name: &str, _sync: bool) -> Result<()> {
        self.images.delete(&self.namespace, name, None, Some(&self.lease)).await
    }
}

fn out(image: images::Image) -> Image {
    Image { name: image.name, target: image.target, labels: image.labels }
}

#[cfg(test)]
mod tests {
    use containerd_images::{archive::import::write_document, media_type::OCI_INDEX};

    use super::*;
    use crate::{
        content::{ContentConfig, Sharing},
        testing::{World, id},
    };

    #[tokio::test]
    async fn documents_may_be_there_in_another_namespace() {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let root = folder.path().to_owned();
        let config = ContentConfig { root, sharing: Sharing::Shared, foreign: false };
        let content = Content::open(config, world.db.clone()).await.unwrap();
        for namespace in ["a", "b"].map(id) {
            let lease = world.leases.create(&namespace, "", BTreeMap::new()).await.unwrap().id;
            let (content, images) = (content.clone(), world.images.clone());
            let store = Store { content, images, namespace, lease };
            let kept = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
            for _ in 0..2 {
                let written = write_document(&store, OCI_INDEX, "{}".into(), kept.clone()).await;
                let info = store.info(&written.unwrap().digest).await.unwrap().unwrap();
                assert_eq!((info.size, info.labels), (2, kept.clone()));
            }
        }
    }
}
