//! From the store into a registry: layers and configurations first, several at
//! once, then manifests, and indexes last, so that nothing there ever refers to
//! what is not there.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    Descriptor, Digest,
    fetch::absent,
    media_type,
    origin::Origin,
    progress::Tracker,
    pull::side_by_side,
    store::{ContentInfo, ContentReader, ContentStore, ContentWriter},
    unpack::stopped,
    walk::{self, Selection, Walk},
};

/// How many uploads are asked for at once. How many there are is up to
/// [`Push::uploads`].
const AT_ONCE: usize = 16;

/// Where content goes: a repository of a registry.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Whether it is there.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Uploads a blob, or takes it from the repository `from` of the same
    /// registry if it can be had there.
    async fn upload(&self, blob: Blob<'_>, from: Option<&str>) -> Result<()>;

    /// Uploads an index or manifest. The one that is the image itself also gets
    /// the image's name.
    async fn put(&self, descriptor: &Descriptor, document: Bytes, is_image: bool) -> Result<()>;
}

/// A blob that is to be uploaded.
pub struct Blob<'a> {
    content: &'a dyn ContentStore,
    /// The blob.
    pub descriptor: &'a Descriptor,
    tracker: &'a Arc<Tracker>,
}

impl Blob<'_> {
    /// Opens it for reading, from `offset` on. May be called again, if what was
    /// read before did not arrive.
    ///
    /// # Errors
    /// `NotFound` when it is gone; those of the store.
    pub async fn open(&self, offset: u64) -> Result<Box<dyn ContentReader>> {
        let digest = self.descriptor.digest.clone();
        let content = self.content.read(&digest, offset).await?;
        Ok(Box::new(Watched { content, digest, done: offset, tracker: self.tracker.clone() }))
    }
}

/// A store with nothing but the blob, and that is only read.
#[async_trait]
impl ContentStore for Blob<'_> {
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        let info = ContentInfo { size: self.descriptor.size, labels: BTreeMap::new() };
        Ok((*digest == self.descriptor.digest).then_some(info))
    }

    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>> {
        match *digest == self.descriptor.digest {
            true => self.open(offset).await,
            false => Err(absent(digest)),
        }
    }

    async fn write(&self, _: &str, _: u64, _: Option<&Digest>) -> Result<Box<dyn ContentWriter>> {
        Err(Error::unimplemented("write to what is pushed"))
    }

    async fn set_labels(&self, _: &Digest, _: BTreeMap<String, String>) -> Result<()> {
        Err(Error::unimplemented("label what is pushed"))
    }

    async fn abort(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// Content whose reading is noted.
struct Watched {
    content: Box<dyn ContentReader>,
    digest: Digest,
    done: u64,
    tracker: Arc<Tracker>,
}

#[async_trait]
impl ContentReader for Watched {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = self.content.next().await?;
        if let Some(piece) = &piece {
            self.done += piece.len() as u64;
            self.tracker.moved(&self.digest, self.done);
        }
        Ok(piece)
    }
}

/// What is needed to push.
pub struct Push<'a> {
    /// Where content is.
    pub content: &'a dyn ContentStore,
    /// Where it goes.
    pub sink: &'a dyn Sink,
    /// What the sink is called, to find what else is there.
    pub origin: Option<&'a Origin>,
    /// What of the image is pushed.
    pub selection: &'a Selection,
    /// How many uploads there may be at once. Several pushes may share it.
    pub uploads: &'a Semaphore,
    /// Who wants to know how far it has come.
    pub tracker: &'a Arc<Tracker>,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

impl Push<'_> {
    /// Pushes the image that `root` stands for.
    ///
    /// # Errors
    /// - `NotFound` when a part of it is not in the store, or there is none for
    ///   the wanted platforms;
    /// - `InvalidArgument` when it is no image, or a malformed one;
    /// - `Cancelled` when it was ended before its time; those of the sink and of
    ///   the store.
    pub async fn run(&self, root: &Descriptor) -> Result<()> {
        let pushed = self.stop.run_until_cancelled(self.push(root)).await;
        pushed.unwrap_or_else(|| Err(stopped()))
    }

    async fn push(&self, root: &Descriptor) -> Result<()> {
        let walk = Walk::over(self.content, root, self.selection).await?;
        if self.selection.platforms.is_some() && !walk.has_manifest() && walk.blobs.is_empty() {
            return Err(walk::no_match(root));
        }
        self.tracker.add(root, None);
        for (parent, children) in &walk.documents {
            children.iter().for_each(|child| self.tracker.add(child, Some(parent)));
        }
        let sources = self.sources(&walk).await?;
        let blobs =
            walk.blobs.iter().map(|blob| self.blob(blob, sources.get(&blob.digest)).boxed());
        let blobs = side_by_side(blobs).buffer_unordered(AT_ONCE);
        blobs.try_collect::<()>().await?;
        let (indexes, manifests): (Vec<_>, Vec<_>) = walk
            .documents
            .iter()
            .map(|(document, _)| document)
            .partition(|document| media_type::is_index(&document.media_type));
        let manifests = manifests.into_iter().map(|manifest| self.document(manifest, root).boxed());
        let manifests = side_by_side(manifests).buffer_unordered(AT_ONCE);
        manifests.try_collect::<()>().await?;
        // The walk came from the top.
        for index in indexes.into_iter().rev() {
            self.document(index, root).await?;
        }
        Ok(())
    }

    /// For blobs, the repository of the same registry that they can be taken
    /// from: where they came from themselves, or what they are a part of.
    async fn sources(&self, walk: &Walk) -> Result<BTreeMap<Digest, String>> {
        let mut sources = BTreeMap::new();
        let Some(origin) = self.origin else { return Ok(sources) };
        for (parent, children) in &walk.documents {
            let inherited = self.other(origin, &parent.digest).await?;
            for child in children.iter().filter(|child| !walk::is_document(child)) {
                let own = self.other(origin, &child.digest).await?;
                if let Some(source) = own.or_else(|| inherited.clone()) {
                    sources.insert(child.digest.clone(), source);
                }
            }
        }
        Ok(sources)
    }

    async fn other(&self, origin: &Origin, digest: &Digest) -> Result<Option<String>> {
        let info = self.content.info(digest).await?;
        Ok(info.and_then(|info| origin.other(&info.labels)))
    }

    async fn blob(&self, blob: &Descriptor, source: Option<&String>) -> Result<()> {
        self.bring_blob(blob, source).await.context("push", &blob.digest)
    }

    async fn bring_blob(&self, blob: &Descriptor, source: Option<&String>) -> Result<()> {
        let _permit = self.permit().await?;
        if self.content.info(&blob.digest).await?.is_none() {
            // Those who may have it get it where it says.
            if media_type::is_non_distributable(&blob.media_type) {
                return Ok(());
            }
            return Err(absent(&blob.digest));
        }
        if self.sink.has(blob).await? {
            self.tracker.exists(&blob.digest);
            return Ok(());
        }
        let (content, tracker) = (self.content, self.tracker);
        let upload = Blob { content, descriptor: blob, tracker };
        self.sink.upload(upload, source.map(String::as_str)).await?;
        self.tracker.complete(&blob.digest);
        Ok(())
    }

    async fn document(&self, document: &Descriptor, root: &Descriptor) -> Result<()> {
        self.bring_document(document, document.digest == root.digest)
            .await
            .context("push", &document.digest)
    }

    async fn bring_document(&self, document: &Descriptor, is_image: bool) -> Result<()> {
        let _permit = self.permit().await?;
        // The image has to get its name in any case.
        if !is_image && self.sink.has(document).await? {
            self.tracker.exists(&document.digest);
            return Ok(());
        }
        let content = walk::read_document(self.content, document).await?;
        self.sink.put(document, content, is_image).await?;
        self.tracker.complete(&document.digest);
        Ok(())
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let permit = self.uploads.acquire().await;
        permit.map_err(|e| Error::caused(ErrorKind::Cancelled, "upload", e))
    }
}

#[cfg(test)]
mod tests;
