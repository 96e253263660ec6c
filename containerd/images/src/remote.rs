//! A repository of a registry, as what images come from and go to.

use async_trait::async_trait;
use bytes::Bytes;
use shim_protocol::Result;

use crate::{
    Descriptor, Digest, Reference,
    fetch::Source,
    origin::Origin,
    push::{Blob, Sink},
    registry::{Body, Registry},
    store::ContentReader,
};

/// A repository, by the reference of an image in it.
pub struct Remote {
    registry: Registry,
    reference: Reference,
}

impl Remote {
    /// Nothing is asked yet.
    pub fn new(registry: Registry, reference: Reference) -> Self {
        Self { registry, reference }
    }

    /// What the reference stands for.
    ///
    /// # Errors
    /// As for [`Registry::resolve`].
    pub async fn resolve(&self) -> Result<Descriptor> {
        self.registry.resolve(&self.reference).await
    }

    /// What it is called in labels.
    pub fn origin(&self) -> Origin {
        let host = self.reference.host();
        // A bracket belongs to an address with colons of its own.
        let host = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => name,
            _ => host,
        };
        Origin { host: host.into(), repository: self.reference.path().into() }
    }

    /// The reference for content below the image, which does not get its tag.
    fn below(&self, digest: &Digest) -> Result<Reference> {
        Reference::parse(&format!("{}@{digest}", self.reference.name()))
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
        let reference = self.below(&descriptor.digest)?;
        self.registry.exists(&reference, descriptor).await
    }

    async fn upload(&self, blob: Blob<'_>, from: Option<&str>) -> Result<()> {
        let from: Vec<String> = from.map(str::to_owned).into_iter().collect();
        let pushed = self.registry.push_blob(&self.reference, blob.descriptor, &from, &blob, None);
        pushed.await.map(drop)
    }

    async fn put(&self, descriptor: &Descriptor, document: Bytes, is_image: bool) -> Result<()> {
        let below;
        let reference = match is_image {
            true => &self.reference,
            false => {
                below = self.below(&descriptor.digest)?;
                &below
            }
        };
        self.registry.put_manifest(reference, descriptor, document).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryConfig;

    #[test]
    fn the_port_of_a_host_is_not_noted() {
        for (reference, host) in [
            ("localhost:5000/a/b:1", "localhost"),
            ("docker.io/library/redis:7", "docker.io"),
            ("[::1]:5000/a", "[::1]"),
        ] {
            let reference = Reference::parse(reference).unwrap();
            let remote = Remote::new(Registry::new(RegistryConfig::default()), reference);
            assert_eq!(remote.origin().host, host);
        }
    }
}
