//! A repository of a registry as what images come from and go to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use containerd_images::{
    Descriptor, Digest, Reference,
    fetch::Source,
    origin::Origin,
    push::{Blob, Sink},
    registry::{Body, Registry},
    store::{ContentInfo, ContentReader, ContentStore, ContentWriter},
};
use shim_protocol::{Error, Result};

/// A repository, by the reference of an image in it.
pub(super) struct Remote {
    registry: Registry,
    reference: Reference,
    /// Repositories that blobs may be had from.
    mounts: Mutex<HashMap<Digest, String>>,
}

impl Remote {
    pub(super) fn new(registry: Registry, reference: Reference) -> Self {
        Self { registry, reference, mounts: Mutex::default() }
    }

    /// What the reference stands for.
    pub(super) async fn resolve(&self) -> Result<Descriptor> {
        self.registry.resolve(&self.reference).await
    }

    /// What it is called in labels.
    pub(super) fn origin(&self) -> Origin {
        let host = self.reference.host();
        // A bracket belongs to an address with colons of its own.
        let host = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => name,
            _ => host,
        };
        Origin { host: host.into(), repository: self.reference.path().into() }
    }

    fn mounts(&self) -> MutexGuard<'_, HashMap<Digest, String>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for Remote {
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn ContentReader>> {
        Ok(Box::new(Opened(self.registry.fetch(&self.reference, descriptor, offset).await?)))
    }
}

struct Opened(Body);

#[async_trait]
impl ContentReader for Opened {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.0.next().await
    }
}

#[async_trait]
impl Sink for Remote {
    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        self.registry.exists(&self.reference, descriptor).await
    }

    async fn mount(&self, descriptor: &Descriptor, from: &str) -> Result<bool> {
        // The registry takes it from there when it is sent, if it can.
        self.mounts().insert(descriptor.digest.clone(), from.into());
        Ok(false)
    }

    async fn upload(&self, blob: Blob<'_>) -> Result<()> {
        let descriptor = blob.descriptor;
        let from: Vec<String> =
            self.mounts().get(&descriptor.digest).cloned().into_iter().collect();
        let store = OneBlob(blob);
        self.registry.push_blob(&self.reference, descriptor, &from, &store, None).await.map(drop)
    }

    async fn put(&self, descriptor: &Descriptor, document: Bytes, is_image: bool) -> Result<()> {
        let reference = match is_image {
            true => self.reference.clone(),
            // Without a tag, as that is the image's.
            false => Reference::parse(&format!("{}@{}", self.reference.name(), descriptor.digest))?,
        };
        self.registry.put_manifest(&reference, descriptor, document).await
    }
}

/// A store with nothing but the blob that is sent.
struct OneBlob<'a>(Blob<'a>);

impl OneBlob<'_> {
    fn check(&self, digest: &Digest) -> Result<()> {
        match *digest == self.0.descriptor.digest {
            true => Ok(()),
            false => Err(Error::not_found(format!("content {digest}"))),
        }
    }
}

#[async_trait]
impl ContentStore for OneBlob<'_> {
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        let info = ContentInfo { size: self.0.descriptor.size, labels: BTreeMap::new() };
        Ok(self.check(digest).is_ok().then_some(info))
    }

    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>> {
        self.check(digest)?;
        self.0.open(offset).await
    }

    async fn write(&self, _: &str, _: u64, _: Option<&Digest>) -> Result<Box<dyn ContentWriter>> {
        Err(Error::unimplemented("write to what is sent"))
    }

    async fn set_labels(&self, _: &Digest, _: BTreeMap<String, String>) -> Result<()> {
        Err(Error::unimplemented("label what is sent"))
    }

    async fn abort(&self, _: &str) -> Result<()> {
        Ok(())
    }
}
