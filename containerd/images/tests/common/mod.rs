//! What the tests of registries need: servers, a store in memory, and short
//! limits.

// Each test is a program of its own, and none uses all.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod distribution;
pub mod server;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use containerd_images::{
    Algorithm, Descriptor, Digest, Reference, media_type,
    registry::{Body, Limits, Registry, RegistryConfig, Scheme},
    store::{ContentInfo, ContentReader, ContentStore, ContentWriter},
};
use shim_protocol::{Error, Result};

/// Limits that make a test short. Nothing depends on how short.
pub fn limits() -> Limits {
    Limits {
        response: Duration::from_millis(500),
        idle: Duration::from_millis(500),
        request: Duration::from_secs(30),
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        tries: 4,
        ..Limits::default()
    }
}

/// Settings for servers without TLS.
pub fn plain() -> RegistryConfig {
    RegistryConfig {
        default_scheme: Some(Scheme::Http),
        limits: limits(),
        ..RegistryConfig::default()
    }
}

pub fn registry() -> Registry {
    Registry::new(plain())
}

pub fn reference(host: &str, rest: &str) -> Reference {
    Reference::parse(&format!("{host}/{rest}")).unwrap()
}

pub fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// A blob, and what describes it.
pub fn blob(length: usize) -> (Descriptor, Bytes) {
    // Repeats at no power of two.
    let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8 ^ (at / 65_521) as u8).collect();
    (Descriptor::new(media_type::OCI_LAYER, digest(&content), length as u64), content.into())
}

/// A manifest with one layer.
pub fn manifest(layer: &Descriptor) -> (Descriptor, Bytes) {
    manifest_about(layer, "")
}

/// The same, with further members.
pub fn manifest_about(layer: &Descriptor, more: &str) -> (Descriptor, Bytes) {
    let config = digest(b"{}");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config}","size":2}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]{more}}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        layer.media_type,
        layer.digest,
        layer.size,
    );
    let descriptor =
        Descriptor::new(media_type::OCI_MANIFEST, digest(text.as_bytes()), text.len() as u64);
    (descriptor, text.into())
}

/// The configuration that [`manifest`] names.
pub fn config() -> (Descriptor, Bytes) {
    (Descriptor::new(media_type::OCI_CONFIG, digest(b"{}"), 2), Bytes::from_static(b"{}"))
}

/// All of a body.
pub async fn all(mut body: Body) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    while let Some(piece) = body.next().await? {
        assert!(!piece.is_empty());
        content.extend_from_slice(&piece);
        assert_eq!(body.offset(), content.len() as u64);
    }
    Ok(content)
}

/// Content in memory, which can be made to fail.
#[derive(Default)]
pub struct Memory {
    pub blobs: Mutex<HashMap<Digest, Bytes>>,
    /// Reading fails after this many bytes.
    pub fails_at: Option<u64>,
}

impl Memory {
    pub fn with(blobs: &[&Bytes]) -> Self {
        let memory = Self::default();
        for content in blobs {
            memory.blobs.lock().unwrap().insert(digest(content), (*content).clone());
        }
        memory
    }
}

struct MemoryReader {
    rest: Bytes,
    fails_at: Option<u64>,
    done: u64,
}

#[async_trait]
impl ContentReader for MemoryReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.fails_at.is_some_and(|at| at <= self.done) {
            return Err(Error::already_exists("an error that nobody else makes"));
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let piece = self.rest.split_to(self.rest.len().min(16 << 10));
        self.done += piece.len() as u64;
        Ok(Some(piece))
    }
}

#[async_trait]
impl ContentStore for Memory {
    async fn info(&self, _: &Digest) -> Result<Option<ContentInfo>> {
        unreachable!("a registry only reads")
    }

    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>> {
        let blobs = self.blobs.lock().unwrap();
        let content = blobs.get(digest).ok_or_else(|| Error::not_found(digest.to_string()))?;
        let rest = content.slice(usize::try_from(offset).unwrap()..);
        Ok(Box::new(MemoryReader { rest, fails_at: self.fails_at, done: offset }))
    }

    async fn write(&self, _: &str, _: u64, _: Option<&Digest>) -> Result<Box<dyn ContentWriter>> {
        unreachable!("a registry only reads")
    }

    async fn set_labels(&self, _: &Digest, _: BTreeMap<String, String>) -> Result<()> {
        unreachable!("a registry only reads")
    }

    async fn abort(&self, _: &str) -> Result<()> {
        unreachable!("a registry only reads")
    }
}

/// Counts what a push tells of its progress.
pub fn progress() -> (Arc<Mutex<Vec<u64>>>, containerd_images::registry::Progress) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    (seen, Arc::new(move |bytes| told.lock().unwrap().push(bytes)))
}
