//! Stores in memory, for tests.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use shim_protocol::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

use crate::{
    Algorithm, Descriptor, Digest,
    fetch::Source,
    media_type,
    store::{ContentInfo, ContentReader, ContentStore, ContentWriter, Image, ImageStore, Unpacker},
};

type Labels = BTreeMap<String, String>;

pub(crate) fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Descriptor {
    Descriptor::new(media_type, digest(content), content.len() as u64)
}

/// Content that is read in pieces of some length.
pub(crate) struct Pieces {
    pub(crate) rest: Bytes,
    pub(crate) piece: usize,
}

impl Pieces {
    pub(crate) fn boxed(content: impl Into<Bytes>, piece: usize) -> Box<dyn ContentReader> {
        Box::new(Self { rest: content.into(), piece })
    }
}

#[async_trait]
impl ContentReader for Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        // As from a network: others get their turn.
        tokio::task::yield_now().await;
        let length = self.piece.min(self.rest.len());
        Ok((length > 0).then(|| self.rest.split_to(length)))
    }
}

/// Content and images.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Stored>>);

#[derive(Default)]
pub(crate) struct Stored {
    pub(crate) blobs: BTreeMap<Digest, (Bytes, Labels)>,
    pub(crate) ingests: BTreeMap<String, Vec<u8>>,
    pub(crate) images: BTreeMap<String, Image>,
    writing: HashSet<String>,
    /// How many writers were asked for and not made; as many as were not waited
    /// for, in the end.
    pub(crate) opening: usize,
    /// How the next commits fail, one after the other.
    pub(crate) refused: Vec<ErrorKind>,
    /// What happens in place of an abort.
    pub(crate) instead_of_abort: Option<fn(&mut Stored, &str) -> Result<()>>,
}

impl Memory {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.0.lock().unwrap()
    }

    pub(crate) fn add(&self, media_type: &str, content: impl Into<Bytes>) -> Descriptor {
        let content = content.into();
        let descriptor = descriptor(media_type, &content);
        self.lock().blobs.insert(descriptor.digest.clone(), (content, Labels::new()));
        descriptor
    }

    pub(crate) fn labels(&self, digest: &Digest) -> Labels {
        self.lock().blobs[digest].1.clone()
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.lock().blobs.contains_key(digest)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Bytes {
        self.lock().blobs[digest].0.clone()
    }
}

struct Writer {
    memory: Memory,
    reference: String,
    offset: u64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.memory.lock().writing.remove(&self.reference);
    }
}

#[async_trait]
impl ContentStore for Memory {
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        let stored = self.lock();
        let found = stored.blobs.get(digest);
        Ok(found.map(|(content, labels)| ContentInfo {
            size: content.len() as u64,
            labels: labels.clone(),
        }))
    }

    async fn read(&self, digest: &Digest, offset: u64) -> Result<Box<dyn ContentReader>> {
        let stored = self.lock();
        let found = stored.blobs.get(digest);
        let (content, _) = found.ok_or_else(|| Error::not_found(digest.to_string()))?;
        Ok(Pieces::boxed(content.slice(usize::try_from(offset).unwrap()..), 7))
    }

    async fn write(
        &self,
        reference: &str,
        _: u64,
        expected: Option<&Digest>,
    ) -> Result<Box<dyn ContentWriter>> {
        self.lock().opening += 1;
        tokio::task::yield_now().await;
        let mut stored = self.lock();
        stored.opening -= 1;
        if let Some(digest) = expected.filter(|digest| stored.blobs.contains_key(digest)) {
            return Err(Error::already_exists(digest.to_string()));
        }
        if !stored.writing.insert(reference.to_owned()) {
            return Err(Error::unavailable(reference));
        }
        let offset = stored.ingests.entry(reference.into()).or_default().len() as u64;
        Ok(Box::new(Writer { memory: self.clone(), reference: reference.into(), offset }))
    }

    async fn set_labels(&self, digest: &Digest, labels: Labels) -> Result<()> {
        let mut stored = self.lock();
        let found = stored.blobs.get_mut(digest);
        let (_, kept) = found.ok_or_else(|| Error::not_found(digest.to_string()))?;
        kept.extend(labels);
        kept.retain(|_, value| !value.is_empty());
        Ok(())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let mut stored = self.lock();
        if let Some(happens) = stored.instead_of_abort {
            return happens(&mut stored, reference);
        }
        if stored.writing.contains(reference) {
            return Err(Error::unavailable(reference));
        }
        stored.ingests.remove(reference);
        Ok(())
    }
}

#[async_trait]
impl ContentWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.offset += piece.len() as u64;
        self.memory.lock().ingests.get_mut(&self.reference).unwrap().extend_from_slice(&piece);
        Ok(())
    }

    async fn clear(&mut self) -> Result<()> {
        self.offset = 0;
        self.memory.lock().ingests.get_mut(&self.reference).unwrap().clear();
        Ok(())
    }

    async fn commit(
        self: Box<Self>,
        size: u64,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        let mut stored = self.memory.lock();
        if !stored.refused.is_empty() {
            let kind = stored.refused.remove(0);
            if kind == ErrorKind::Aborted {
                stored.ingests.remove(&self.reference);
            }
            return Err(Error::new(kind, "not now"));
        }
        let content = stored.ingests[&self.reference].clone();
        let found = digest(&content);
        let wrong = expected.is_some_and(|expected| *expected != found);
        if wrong || (size > 0 && content.len() as u64 != size) {
            return Err(Error::precondition(format!("it is {found}")));
        }
        stored.ingests.remove(&self.reference);
        if stored.blobs.contains_key(&found) {
            return Err(Error::already_exists(found.to_string()));
        }
        stored.blobs.insert(found.clone(), (content.into(), labels));
        Ok(found)
    }
}

#[async_trait]
impl ImageStore for Memory {
    async fn get(&self, name: &str) -> Result<Option<Image>> {
        Ok(self.lock().images.get(name).cloned())
    }

    async fn list(&self, _: &[String]) -> Result<Vec<Image>> {
        Ok(self.lock().images.values().cloned().collect())
    }

    async fn put(&self, image: Image) -> Result<Image> {
        self.lock().images.insert(image.name.clone(), image.clone());
        Ok(image)
    }

    async fn delete(&self, name: &str, _: bool) -> Result<()> {
        let removed = self.lock().images.remove(name);
        removed.map(drop).ok_or_else(|| Error::not_found(name))
    }
}

/// Snapshots; a layer's snapshot is what its name says. Layers are unpacked by
/// taking a leading `gz:` away.
pub(crate) struct Snapshots {
    content: Memory,
    pub(crate) state: Mutex<SnapshotState>,
}

#[derive(Default)]
pub(crate) struct SnapshotState {
    /// Names with their parents.
    pub(crate) committed: BTreeMap<String, String>,
    /// Keys with their parents.
    pub(crate) active: BTreeMap<String, String>,
    /// What was unpacked, in order.
    pub(crate) applied: Vec<Digest>,
    /// Somebody else commits the same just before us.
    pub(crate) raced: bool,
    /// As often, somebody else has committed the same, and it is gone again.
    pub(crate) gone: u32,
}

impl Snapshots {
    pub(crate) fn new(content: &Memory) -> Self {
        Self { content: content.clone(), state: Mutex::default() }
    }
}

#[async_trait]
impl Unpacker for Snapshots {
    fn snapshotter(&self) -> &str {
        "memory"
    }

    async fn has(&self, name: &str) -> Result<bool> {
        Ok(self.state.lock().unwrap().committed.contains_key(name))
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        assert!(parent.is_empty() || state.committed.contains_key(parent), "{parent}");
        assert!(key.ends_with(&format!(" {}", labels["containerd.io/snapshot.ref"])), "{key}");
        state.active.insert(key.into(), parent.into());
        Ok(())
    }

    async fn apply(&self, key: &str, layer: &Descriptor) -> Result<Digest> {
        assert!(self.state.lock().unwrap().active.contains_key(key));
        tokio::task::yield_now().await;
        let content = self.content.get(&layer.digest);
        self.state.lock().unwrap().applied.push(layer.digest.clone());
        Ok(digest(content.strip_prefix(b"gz:").unwrap_or(&content)))
    }

    async fn commit(&self, name: &str, key: &str, _: Labels) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let parent = state.active[key].clone();
        if state.gone > 0 {
            state.gone -= 1;
            return Err(Error::already_exists(name));
        }
        if state.raced {
            state.committed.insert(name.into(), parent);
            return Err(Error::already_exists(name));
        }
        state.active.remove(key);
        state.committed.insert(name.into(), parent);
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let removed = self.state.lock().unwrap().active.remove(key);
        removed.map(drop).ok_or_else(|| Error::not_found(key))
    }
}

/// A registry.
pub(crate) struct Shelf {
    pub(crate) blobs: HashMap<Digest, Bytes>,
    pub(crate) state: Arc<Mutex<ShelfState>>,
    /// Each piece of a layer needs a permit, if there is one.
    pub(crate) gate: Option<Arc<Semaphore>>,
}

#[derive(Default)]
pub(crate) struct ShelfState {
    /// What was asked for, and from where on.
    pub(crate) opened: Vec<(Digest, u64)>,
    pub(crate) open: usize,
    pub(crate) most_open: usize,
    /// After so many bytes the connection breaks, as often as there are numbers.
    pub(crate) breaks: Vec<u64>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self { blobs: HashMap::new(), state: Arc::default(), gate: None }
    }

    pub(crate) fn add(&mut self, media_type: &str, content: impl Into<Bytes>) -> Descriptor {
        let content = content.into();
        let descriptor = descriptor(media_type, &content);
        self.blobs.insert(descriptor.digest.clone(), content);
        descriptor
    }

    /// An image with these layers, which are unpacked as [`Snapshots`] does it.
    pub(crate) fn image(&mut self, layers: &[&str]) -> Descriptor {
        self.image_for("amd64", layers)
    }

    pub(crate) fn image_for(&mut self, architecture: &str, layers: &[&str]) -> Descriptor {
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| digest(layer.strip_prefix("gz:").unwrap_or(layer).as_bytes()).to_string())
            .collect();
        let config = serde_json::json!({
            "os": "linux", "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(media_type::OCI_CONFIG, config.to_string());
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| json(&self.add(media_type::OCI_LAYER_GZIP, (*layer).to_owned())))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": json(&config), "layers": layers,
        });
        self.add(media_type::OCI_MANIFEST, manifest.to_string())
    }

    /// An index of manifests, each for an architecture.
    pub(crate) fn index(&mut self, manifests: &[(&str, &Descriptor)]) -> Descriptor {
        let manifests: Vec<_> = manifests
            .iter()
            .map(|(architecture, manifest)| {
                let mut manifest = json(manifest);
                manifest["platform"] =
                    serde_json::json!({"os": "linux", "architecture": architecture});
                manifest
            })
            .collect();
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests,
        });
        self.add(media_type::OCI_INDEX, index.to_string())
    }
}

pub(crate) fn json(descriptor: &Descriptor) -> serde_json::Value {
    serde_json::json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    })
}

/// A download, which counts as long as it is there.
struct Download {
    pieces: Pieces,
    /// How many bytes come before the connection breaks.
    left: Option<u64>,
    gate: Option<Arc<Semaphore>>,
    state: Arc<Mutex<ShelfState>>,
}

impl Drop for Download {
    fn drop(&mut self) {
        self.state.lock().unwrap().open -= 1;
    }
}

#[async_trait]
impl ContentReader for Download {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return Err(Error::unavailable("the connection broke"));
            }
            self.pieces.piece = self.pieces.piece.min(usize::try_from(*left).unwrap());
            *left -= self.pieces.piece as u64;
        }
        self.pieces.next().await
    }
}

#[async_trait]
impl Source for Shelf {
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn ContentReader>> {
        let content = self.blobs.get(&descriptor.digest);
        let content = content.ok_or_else(|| Error::not_found(descriptor.digest.to_string()))?;
        let mut state = self.state.lock().unwrap();
        state.opened.push((descriptor.digest.clone(), offset));
        state.open += 1;
        state.most_open = state.most_open.max(state.open);
        let is_layer = media_type::is_layer(&descriptor.media_type);
        let left =
            if is_layer && !state.breaks.is_empty() { Some(state.breaks.remove(0)) } else { None };
        let rest = content.slice(usize::try_from(offset).unwrap()..);
        Ok(Box::new(Download {
            pieces: Pieces { piece: 4.max(rest.len() / 1000), rest },
            left,
            gate: self.gate.clone().filter(|_| is_layer),
            state: self.state.clone(),
        }))
    }
}

/// Somebody else writes to the reference that is to be aborted.
pub(crate) fn busy(_: &mut Stored, reference: &str) -> Result<()> {
    Err(Error::unavailable(reference))
}

pub(crate) fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.unwrap_err().kind()
}
