//! A snapshotter of the daemon as a place where layers are unpacked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use containerd_images::{Descriptor, Digest, store::Unpacker};
use shim_protocol::Result;

use crate::{Layer, Namespace, Resource, Snapshots};

impl Namespace {
    /// A snapshotter of this namespace, for what unpacks images.
    pub fn unpacker(&self, snapshotter: impl Into<String>) -> SnapshotUnpacker {
        SnapshotUnpacker { namespace: self.clone(), snapshots: self.snapshots(snapshotter) }
    }
}

/// A snapshotter of a namespace, for what unpacks images.
#[derive(Clone, Debug)]
pub struct SnapshotUnpacker {
    namespace: Namespace,
    snapshots: Snapshots,
}

#[async_trait]
impl Unpacker for SnapshotUnpacker {
    fn snapshotter(&self) -> &str {
        self.snapshots.snapshotter()
    }

    async fn has(&self, name: &str) -> Result<bool> {
        match self.snapshots.stat(name).await {
            Err(e) if e.is_not_found() => return Ok(false),
            found => found?,
        };
        if let Some(lease) = self.namespace.lease() {
            let kind = format!("snapshots/{}", self.snapshotter());
            let resource = Resource { id: name.into(), kind };
            match self.namespace.leases().add_resource(lease, resource).await {
                // It is under the lease already.
                Err(e) if !e.is_already_exists() => return Err(e.into()),
                _ => {}
            }
        }
        Ok(true)
    }

    async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        Ok(self.snapshots.prepare(key, parent, labels).await.map(drop)?)
    }

    async fn apply(&self, key: &str, layer: &Descriptor) -> Result<Digest> {
        let mounts = self.snapshots.mounts(key).await?;
        let layer = Layer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.to_string(),
            size: layer.size,
        };
        Digest::parse(&self.namespace.diff().apply(&layer, mounts, false).await?.digest)
    }

    async fn commit(&self, name: &str, key: &str, labels: BTreeMap<String, String>) -> Result<()> {
        Ok(self.snapshots.commit(name, key, "", labels).await?)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        Ok(self.snapshots.remove(key).await?)
    }
}
