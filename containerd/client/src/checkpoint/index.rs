//! The index of a checkpoint, and what it is made of.

use std::collections::BTreeMap;

use containerd_images::{
    Descriptor, Digest, Platform,
    archive::import::write_document,
    manifest::Index,
    media_type::{OCI_INDEX, OCI_LAYER_GZIP},
    walk,
};
use prost::Message;

use crate::{Container, Image, Layer, Lease, Namespace, NewLayer, Result, Views};

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
    Ok(write_document(&namespace.store(), media_type, data.into(), labels).await?)
}

/// The layer that is what a snapshot has more than its parent.
async fn files(namespace: &Namespace, container: &Container) -> Result<Layer> {
    let record = container.record();
    let snapshots = namespace.snapshots(&record.snapshotter);
    let key = &record.snapshot_key;
    let parent = snapshots.stat(key).await?.parent;
    let mut views = Views::new(snapshots);
    let made = async {
        let (lower, upper) = (views.view(&parent).await?, views.mounts(key).await?);
        let layer = NewLayer {
            media_type: OCI_LAYER_GZIP.into(),
            reference: format!("checkpoint-rw-{}", Lease::random_id()),
            ..NewLayer::default()
        };
        namespace.diff().diff(lower, upper, layer).await
    };
    let made = made.await;
    let removed = views.remove().await;
    let made = made?;
    removed?;
    Ok(made)
}
