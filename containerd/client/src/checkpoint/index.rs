//! The index of a checkpoint, and what it is made of.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::SystemTime,
};

use containerd_images::{
    Algorithm, Descriptor, Digest, Platform,
    manifest::Index,
    media_type::{OCI_INDEX, OCI_LAYER_GZIP},
    walk,
};
use prost::Message;

use crate::{
    Container, ErrorKind, Image, Layer, Namespace, NewLayer, Result, SnapshotKind, rootfs,
};

/// How much of a blob goes into one message, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// An index that is being made.
pub(super) struct NewIndex {
    index: Index,
}

impl NewIndex {
    pub(super) fn new() -> Self {
        let index = Index {
            media_type: OCI_INDEX.into(),
            artifact_type: None,
            manifests: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        Self { index }
    }

    pub(super) fn annotate(&mut self, key: &str, value: &str) {
        self.index.annotations.insert(key.into(), value.into());
    }

    /// Adds a part that is only of use on machines like this one.
    pub(super) fn add(&mut self, part: Descriptor) {
        self.add_image(Descriptor { platform: Some(Platform::host()), ..part });
    }

    /// Adds an image, which says itself for which platforms it is.
    pub(super) fn add_image(&mut self, image: Descriptor) {
        self.index.manifests.push(image);
    }

    /// Adds a message as a blob of its own.
    pub(super) async fn add_message(
        &mut self,
        namespace: &Namespace,
        media_type: &str,
        message: &impl Message,
    ) -> Result<()> {
        let data = message.encode_to_vec();
        let part = write(namespace, media_type, data, BTreeMap::new()).await?;
        self.add(part);
        Ok(())
    }

    /// Whether [`NewIndex::add_files`] will find what it adds.
    ///
    /// # Errors
    /// `NotFound` when the container has no snapshot.
    pub(super) async fn finds_files(namespace: &Namespace, container: &Container) -> Result<()> {
        let record = container.record();
        namespace.snapshots(&record.snapshotter).stat(&record.snapshot_key).await.map(drop)
    }

    /// Adds what a container has written to its snapshot.
    pub(super) async fn add_files(
        &mut self,
        namespace: &Namespace,
        container: &Container,
    ) -> Result<()> {
        let layer = files(namespace, container).await?;
        let digest = Digest::parse(&layer.digest)?;
        self.add(Descriptor::new(layer.media_type, digest, layer.size));
        Ok(())
    }

    /// Writes it, so that it holds what it is made of.
    pub(super) async fn write(self, namespace: &Namespace) -> Result<Descriptor> {
        let parts = self.index.manifests.iter().enumerate();
        let labels = parts.map(|(number, part)| {
            (format!("containerd.io/gc.ref.content.{number}"), part.digest.to_string())
        });
        let labels = labels.collect();
        write(namespace, OCI_INDEX, self.index.to_json()?, labels).await
    }
}

/// Reads the index of a checkpoint.
///
/// # Errors
/// `NotFound` when it is not there, `InvalidArgument` when it is none.
pub(super) async fn read(namespace: &Namespace, checkpoint: &Image) -> Result<Index> {
    let document = walk::read_document(&namespace.store(), &checkpoint.target).await?;
    Ok(Index::parse(&document)?)
}

/// The part of a checkpoint that has this media type.
pub(super) fn part<'a>(index: &'a Index, media_type: &str) -> Option<&'a Descriptor> {
    index.manifests.iter().find(|part| part.media_type == media_type)
}

/// Writes a blob; one that is there is as good.
async fn write(
    namespace: &Namespace,
    media_type: &str,
    data: Vec<u8>,
    labels: BTreeMap<String, String>,
) -> Result<Descriptor> {
    let digest = Digest::of(Algorithm::Sha256, &data);
    let (name, size) = (digest.to_string(), data.len() as u64);
    let store = namespace.store();
    let written = async {
        let content = namespace.content();
        let mut writer = content.write(&format!("checkpoint-{name}"), size, Some(&name)).await?;
        writer.clear();
        for piece in data.chunks(PIECE_BYTES) {
            writer.write(piece.to_vec()).await?;
        }
        writer.commit(size, Some(&name), labels.clone()).await.map(drop)
    };
    match written.await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            store.hold(&digest).await?;
            if !labels.is_empty() {
                namespace.content().set_labels(&name, labels).await?;
            }
        }
        written => written?,
    }
    Ok(Descriptor::new(media_type, digest, size))
}

/// The layer that is what a snapshot has more than its parent.
async fn files(namespace: &Namespace, container: &Container) -> Result<Layer> {
    let record = container.record();
    let snapshots = namespace.snapshots(&record.snapshotter);
    let key = &record.snapshot_key;
    let info = snapshots.stat(key).await?;
    // Nobody else may have it mounted, or remove it meanwhile.
    let view = |name: &str| {
        let unique = RandomState::new().hash_one(SystemTime::now());
        format!("{name}-view-{unique:016x}")
    };
    let lower_key = view(&format!("{key}-parent"));
    let lower = snapshots.view(&lower_key, &info.parent, BTreeMap::new()).await?;
    let made = async {
        let (upper, upper_key) = match info.kind {
            SnapshotKind::Committed => {
                let upper_key = view(key);
                (snapshots.view(&upper_key, key, BTreeMap::new()).await?, Some(upper_key))
            }
            _ => (snapshots.mounts(key).await?, None),
        };
        let layer = NewLayer {
            media_type: OCI_LAYER_GZIP.into(),
            reference: format!("checkpoint-rw-{key}"),
            ..NewLayer::default()
        };
        let made = namespace.diff().diff(lower, upper, layer).await;
        if let Some(upper_key) = upper_key {
            rootfs::remove(&snapshots, &upper_key).await?;
        }
        made
    };
    let made = made.await;
    let removed = rootfs::remove(&snapshots, &lower_key).await;
    let made = made?;
    removed?;
    Ok(made)
}
