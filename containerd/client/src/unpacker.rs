//! A snapshotter of the daemon as a place where layers are unpacked.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use async_trait::async_trait;
use containerd_images::{Descriptor, Digest, store::Unpacker};
use shim_protocol::Result;

use crate::{Layer, Namespace, Resource, SnapshotKind, Snapshots};

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

impl SnapshotUnpacker {
    /// Whether there is a committed snapshot of that name.
    async fn is_committed(&self, name: &str) -> Result<bool> {
        match self.snapshots.stat(name).await {
            Ok(info) => Ok(info.kind == SnapshotKind::Committed),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

#[async_trait]
impl Unpacker for SnapshotUnpacker {
    fn snapshotter(&self) -> &str {
        self.snapshots.snapshotter()
    }

    async fn has(&self, name: &str) -> Result<bool> {
        if !self.is_committed(name).await? {
            return Ok(false);
        }
        if let Some(lease) = self.namespace.lease() {
            let kind = format!("snapshots/{}", self.snapshotter());
            let resource = Resource { id: name.into(), kind };
            match self.namespace.leases().add_resource(lease, resource).await {
                // It is under the lease already.
                Err(e) if !e.is_already_exists() => return Err(e.into()),
                _ => {}
            }
        }
        // It may have been collected before the lease held it.
        self.is_committed(name).await
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
