//! The content of a namespace, as [`containerd_images`] wants it.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use containerd_images::store::{ContentInfo, ContentReader, ContentStore, ContentWriter};
use shim_protocol::{Error, ErrorKind, Id, Result};

use super::{Blob, Content, Digest, Ingestion, Writer};

/// How much is read or written at once, in bytes.
const PIECE_BYTES: usize = 512 << 10;

/// The content of a namespace, under a lease if there is one.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) content: Content,
    pub(crate) namespace: Id,
    pub(crate) lease: Option<String>,
}

#[async_trait]
impl ContentStore for View {
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
            lease: self.lease.clone(),
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
        match self.content.abort(&self.namespace, reference, self.lease.as_deref()).await {
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
            let kept = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
            for (lease, document) in [(Some(lease), "{}"), (None, "[]")] {
                let (content, namespace) = (content.clone(), namespace.clone());
                let view = View { content, namespace, lease };
                for _ in 0..2 {
                    let written = write_document(&view, OCI_INDEX, document.into(), kept.clone());
                    let info = view.info(&written.await.unwrap().digest).await.unwrap().unwrap();
                    assert_eq!((info.size, info.labels), (2, kept.clone()));
                }
            }
        }
    }
}
