//! Where images are stored: in the daemon itself, or behind its API.
//!
//! All of these act in one namespace, and under one lease if there is one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use shim_protocol::Result;

use crate::{Descriptor, Digest};

/// What is known of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentInfo {
    /// Its length in bytes.
    pub size: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Content: blobs by their digest, and ingests by their reference.
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// What is known of content; none if it is not there.
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>>;

    /// Opens content for reading, from `offset` on.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>>;

    /// Begins to write content to `reference`, or goes on with what was written
    /// to it. `size` 0 and no digest stand for what is not known.
    ///
    /// # Errors
    /// `AlreadyExists` when the expected content is there (a lease then holds
    /// it); `Unavailable` while somebody else writes to the reference.
    async fn write(
        &self,
        reference: &str,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<Box<dyn ContentWriter>>;

    /// Sets labels; an empty value removes one, and others stay.
    ///
    /// # Errors
    /// `NotFound` when the content is not there.
    async fn set_labels(&self, digest: &Digest, labels: BTreeMap<String, String>) -> Result<()>;

    /// Forgets what was written to a reference; it need not be there.
    async fn abort(&self, reference: &str) -> Result<()>;
}

/// How often something is written that is found to be there, and is gone when it
/// is to be kept.
pub(crate) const TRIES: u32 = 3;

/// Forgets what was written to a reference after a failure, which is what the
/// caller has to hear of: if this fails too, what was written stays.
pub(crate) async fn give_up(content: &dyn ContentStore, reference: &str) {
    if let Err(error) = content.abort(reference).await {
        tracing::warn!(reference, error = %error.report(), "what was written stays");
    }
}

/// Content that is being read.
#[async_trait]
pub trait ContentReader: Send {
    /// The next piece, which is not empty; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// Content that is being written. What has come stays when it is dropped, for
/// whoever writes to the reference again.
#[async_trait]
pub trait ContentWriter: Send {
    /// How much has come, in bytes.
    fn offset(&self) -> u64;

    /// Appends a piece.
    async fn write(&mut self, piece: Bytes) -> Result<()>;

    /// Forgets all that has come.
    async fn clear(&mut self) -> Result<()>;

    /// Ends the content: it is checked and recorded, with `labels`. Size 0 and
    /// no digest stand for whatever they are.
    ///
    /// # Errors
    /// `FailedPrecondition` when size or digest are others; `AlreadyExists`
    /// when it was there; `Aborted` when what somebody else had of it is gone
    /// meanwhile, and has to be written.
    async fn commit(
        self: Box<Self>,
        size: u64,
        expected: Option<&Digest>,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest>;
}

/// A name for content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Most often a reference such as `docker.io/library/redis:7`.
    pub name: String,
    /// Index or manifest that it stands for.
    pub target: Descriptor,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Images by their names.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// The image of that name; none if there is none.
    async fn get(&self, name: &str) -> Result<Option<Image>>;

    /// All images that one of `filters` matches; all without filters.
    async fn list(&self, filters: &[String]) -> Result<Vec<Image>>;

    /// Makes an image, or gives the one of that name its target and labels.
    async fn put(&self, image: Image) -> Result<Image>;

    /// Forgets a name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn delete(&self, name: &str, sync: bool) -> Result<()>;
}

/// What layers are unpacked into: one snapshotter.
#[async_trait]
pub trait Unpacker: Send + Sync {
    /// Its name, such as `overlayfs`.
    fn snapshotter(&self) -> &str;

    /// Whether there is a committed snapshot of that name (a lease then holds
    /// it).
    async fn has(&self, name: &str) -> Result<bool>;

    /// Makes a snapshot under `key` that can be written to; one without parent
    /// if that is empty.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one under that key; `NotFound` when there
    /// is no such parent.
    async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()>;

    /// Unpacks a layer into the snapshot under `key`; answers the digest of the
    /// layer without its compression.
    async fn apply(&self, key: &str, layer: &Descriptor) -> Result<Digest>;

    /// Fixes the snapshot under `key`.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name.
    async fn commit(&self, name: &str, key: &str, labels: BTreeMap<String, String>) -> Result<()>;

    /// Removes a snapshot.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    async fn remove(&self, key: &str) -> Result<()>;
}
