//! The snapshots of a namespace, as [`containerd_images`] wants them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use containerd_images::{Descriptor, Digest, store::Unpacker};
use shim_protocol::{Id, Result};

use crate::{
    diff::{ApplyOptions, Diff},
    fault,
    leases::{Leases, Resource},
    snapshots::{Commit, Kind, New, Snapshots},
};

/// The snapshots of one snapshotter in a namespace, under a lease.
pub(super) struct SnapshotUnpacker {
    pub(super) snapshots: Snapshots,
    pub(super) diff: Diff,
    pub(super) leases: Leases,
    pub(super) namespace: Id,
    pub(super) snapshotter: String,
    pub(super) lease: String,
}

impl SnapshotUnpacker {
    /// Whether there is a committed snapshot of that name.
    async fn is_committed(&self, name: &str) -> Result<bool> {
        match self.snapshots.stat(&self.namespace, &self.snapshotter, name).await {
            Ok(info) => Ok(info.kind == Kind::Committed),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[async_trait]
impl Unpacker for SnapshotUnpacker {
    fn snapshotter(&self) -> &str {
        &self.snapshotter
    }

    async fn has(&self, name: &str) -> Result<bool> {
        if !self.is_committed(name).await? {
            return Ok(false);
        }
        let kind = format!("snapshots/{}", self.snapshotter);
        let resource = Resource { id: name.to_owned(), kind };
        self.leases.add_resource(&self.namespace, &self.lease, resource).await?;
        // It may have been collected before the lease held it.
        self.is_committed(name).await
    }

    async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        let new = New { key: key.to_owned(), parent: parent.to_owned(), labels };
        let lease = Some(self.lease.as_str());
        self.snapshots.prepare(&self.namespace, &self.snapshotter, new, lease).await?;
        fault::point("unpack.prepared");
        Ok(())
    }

    async fn apply(&self, key: &str, layer: &Descriptor) -> Result<Digest> {
        let mounts = self.snapshots.mounts(&self.namespace, &self.snapshotter, key).await?;
        let options = ApplyOptions::default();
        let applied = self.diff.apply(&self.namespace, layer, mounts, options).await?;
        fault::point("unpack.applied");
        Ok(applied.digest)
    }

    async fn commit(&self, name: &str, key: &str, labels: BTreeMap<String, String>) -> Result<()> {
        let commit =
            Commit { name: name.to_owned(), key: key.to_owned(), parent: String::new(), labels };
        let lease = Some(self.lease.as_str());
        self.snapshots.commit(&self.namespace, &self.snapshotter, commit, lease).await?;
        fault::point("unpack.committed");
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let lease = Some(self.lease.as_str());
        self.snapshots.remove(&self.namespace, &self.snapshotter, key, lease).await
    }
}
