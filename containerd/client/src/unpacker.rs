//! A snapshotter of the daemon as a place where layers are unpacked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use containerd_api::services::{
    diff::v1::{ApplyRequest, diff_client::DiffClient},
    snapshots::v1::{
        CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
        StatSnapshotRequest,
    },
};
use containerd_images::{Descriptor, Digest, store::Unpacker};
use shim_protocol::Result;

use crate::{Context, Error, Namespace, Resource, image::descriptor_to_wire};

impl Namespace {
    /// A snapshotter of this namespace, for what unpacks images.
    pub fn unpacker(&self, snapshotter: impl Into<String>) -> SnapshotUnpacker {
        SnapshotUnpacker { namespace: self.clone(), snapshotter: snapshotter.into() }
    }
}

/// A snapshotter of a namespace, for what unpacks images.
#[derive(Clone, Debug)]
pub struct SnapshotUnpacker {
    namespace: Namespace,
    snapshotter: String,
}

#[async_trait]
impl Unpacker for SnapshotUnpacker {
    fn snapshotter(&self) -> &str {
        &self.snapshotter
    }

    async fn has(&self, name: &str) -> Result<bool> {
        let message =
            StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: name.into() };
        match self.namespace.rootfs_stub().stat(self.namespace.request(message)?).await {
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(false),
            answer => answer.context("get snapshot", name)?,
        };
        if let Some(lease) = self.namespace.lease() {
            let kind = format!("snapshots/{}", self.snapshotter);
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
        let message = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels,
        };
        let answer = self.namespace.rootfs_stub().prepare(self.namespace.request(message)?).await;
        Ok(answer.context("prepare snapshot", key).map(drop)?)
    }

    async fn apply(&self, key: &str, layer: &Descriptor) -> Result<Digest> {
        let message = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let answer = self.namespace.rootfs_stub().mounts(self.namespace.request(message)?).await;
        let mounts = answer.context("get mounts of snapshot", key)?.into_inner().mounts;

        let diff = Some(descriptor_to_wire(layer.clone())?);
        let message = ApplyRequest { diff, mounts, ..ApplyRequest::default() };
        let mut stub = DiffClient::new(self.namespace.client().channel());
        let answer = stub.apply(self.namespace.request(message)?).await;
        let applied = answer.context("apply layer", &layer.digest)?.into_inner().applied;
        let applied = applied.ok_or_else(|| Error::incomplete("apply layer", "applied"))?;
        Digest::parse(&applied.digest)
    }

    async fn commit(&self, name: &str, key: &str, labels: BTreeMap<String, String>) -> Result<()> {
        let message = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.into(),
            key: key.into(),
            labels,
            ..CommitSnapshotRequest::default()
        };
        let answer = self.namespace.rootfs_stub().commit(self.namespace.request(message)?).await;
        Ok(answer.context("commit snapshot", name).map(drop)?)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let message =
            RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let answer = self.namespace.rootfs_stub().remove(self.namespace.request(message)?).await;
        Ok(answer.context("remove snapshot", key).map(drop)?)
    }
}
