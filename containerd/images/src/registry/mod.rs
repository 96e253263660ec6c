//! Registries: where images come from, over HTTP (OCI distribution
//! specification, version 1.1).
//!
//! What comes from a registry is not trusted: documents are checked against
//! their digest here, and blobs by whoever writes them. Each wait has an end.

mod config;

use std::sync::Arc;

use bytes::Bytes;
use shim_protocol::{Error, Result};

use crate::{Descriptor, Digest, Reference, store::ContentStore};

pub use config::{CredentialProvider, Credentials, Limits, RegistryConfig, Scheme, Tls};

/// All registries, as configured. Connections and tokens are kept as long as it
/// is; a clone is the same one.
#[derive(Clone)]
pub struct Registry {
    #[allow(dead_code)]
    inner: Arc<RegistryConfig>,
}

/// Called with the number of bytes of a blob that were sent so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// How a blob came into a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry has it in another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

fn todo_soon<T>() -> Result<T> {
    Err(Error::unimplemented("registry"))
}

impl Registry {
    /// Nothing is connected yet, and no file read.
    pub fn new(config: RegistryConfig) -> Self {
        Self { inner: Arc::new(config) }
    }

    /// What a reference stands for.
    ///
    /// # Errors
    /// `NotFound` when it stands for nothing; `PermissionDenied` when we may not
    /// know; `Unavailable` or `DeadlineExceeded` when the registry does not
    /// answer; `InvalidArgument` without tag and digest.
    pub async fn resolve(&self, _reference: &Reference) -> Result<Descriptor> {
        todo_soon()
    }

    /// Opens content for reading, from `offset` on.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; `DataLoss` when it has another length.
    pub async fn fetch(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _offset: u64,
    ) -> Result<Body> {
        todo_soon()
    }

    /// Fetches a document (index, manifest, configuration) as a whole, and
    /// checks its digest.
    ///
    /// # Errors
    /// As for [`Self::fetch`]; `ResourceExhausted` when it has more than
    /// [`crate::manifest::DOCUMENT_MAX_BYTES`]; `DataLoss` when it has another
    /// digest.
    pub async fn fetch_document(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
    ) -> Result<Bytes> {
        todo_soon()
    }

    /// Whether the repository of `reference` has this content. A manifest must
    /// also have the tag of `reference`, if it is the one that is named.
    ///
    /// # Errors
    /// As for [`Self::resolve`].
    pub async fn exists(&self, _reference: &Reference, _descriptor: &Descriptor) -> Result<bool> {
        todo_soon()
    }

    /// Sends a blob from `store`, unless it is there, or can be had from one of
    /// the repositories `mount_from` (paths such as `library/redis`) of the same
    /// host.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; what the store answers.
    pub async fn push_blob(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _mount_from: &[String],
        _store: &dyn ContentStore,
        _progress: Option<Progress>,
    ) -> Result<Pushed> {
        todo_soon()
    }

    /// Sends an index or manifest. It gets the tag of `reference`, unless that
    /// names the digest of another one: `reference.with_digest(root)` tags the
    /// root and not the manifests below it.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; `DataLoss` when the registry took it for
    /// something else.
    pub async fn put_manifest(
        &self,
        _reference: &Reference,
        _descriptor: &Descriptor,
        _bytes: Bytes,
    ) -> Result<()> {
        todo_soon()
    }

    /// Manifests that are about the one of this digest, all or only those of
    /// one sort.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; it is none when there are none.
    pub async fn referrers(
        &self,
        _reference: &Reference,
        _digest: &Digest,
        _artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        todo_soon()
    }
}

/// Content that comes from a registry. A broken connection is replaced by
/// another one that goes on where the first ended, a bounded number of times.
pub struct Body {}

impl Body {
    /// The next piece, which is not empty; none at the end.
    ///
    /// # Errors
    /// As for [`Registry::fetch`].
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        todo_soon()
    }

    /// How much of the content has come, in bytes, with what was skipped.
    pub fn offset(&self) -> u64 {
        0
    }
}
