//! Snapshots as root filesystems of containers.

use std::collections::BTreeMap;

use containerd_api::{
    services::snapshots::v1::{
        MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, ViewSnapshotRequest,
        snapshots_client::SnapshotsClient,
    },
    types::Mount,
};
use tonic::transport::Channel;

use crate::{Context, Namespace, Result, RootMount};

/// The snapshotter of who names none.
const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// Label of a namespace with the snapshotter of who names none.
const DEFAULT_SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";

/// A snapshot that a container is to get.
#[derive(Clone, Debug)]
pub(crate) struct NewSnapshot {
    pub(crate) parent: String,
    pub(crate) read_only: bool,
    pub(crate) labels: BTreeMap<String, String>,
}

fn from_wire(wire: Mount) -> RootMount {
    RootMount { kind: wire.r#type, source: wire.source, target: wire.target, options: wire.options }
}

impl Namespace {
    /// The snapshotter `name`; if that is empty, the one that the namespace has
    /// a label for, or else `overlayfs`.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn snapshotter(&self, name: &str) -> Result<String> {
        if !name.is_empty() {
            return Ok(name.into());
        }
        let labels = match self.client().namespaces().get(self.name()).await {
            Ok(record) => record.labels,
            Err(e) if e.is_not_found() => BTreeMap::new(),
            Err(e) => return Err(e),
        };
        let label = labels.get(DEFAULT_SNAPSHOTTER_LABEL).filter(|value| !value.is_empty());
        Ok(label.cloned().unwrap_or_else(|| DEFAULT_SNAPSHOTTER.into()))
    }

    pub(crate) fn rootfs_stub(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.client().channel())
    }

    pub(crate) async fn prepare_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        new: &NewSnapshot,
    ) -> Result<Vec<RootMount>> {
        let (snapshotter, key) = (snapshotter.to_owned(), key.to_owned());
        let NewSnapshot { parent, labels, .. } = new.clone();
        let subject = key.clone();
        let mounts = if new.read_only {
            let message = ViewSnapshotRequest { snapshotter, key, parent, labels };
            let answer = self.rootfs_stub().view(self.request(message)?).await;
            answer.context("view snapshot", subject)?.into_inner().mounts
        } else {
            let message = PrepareSnapshotRequest { snapshotter, key, parent, labels };
            let answer = self.rootfs_stub().prepare(self.request(message)?).await;
            answer.context("prepare snapshot", subject)?.into_inner().mounts
        };
        Ok(mounts.into_iter().map(from_wire).collect())
    }

    pub(crate) async fn rootfs_mounts(
        &self,
        snapshotter: &str,
        key: &str,
    ) -> Result<Vec<RootMount>> {
        let message = MountsRequest { snapshotter: snapshotter.into(), key: key.into() };
        let answer = self.rootfs_stub().mounts(self.request(message)?).await;
        let mounts = answer.context("get mounts of snapshot", key)?.into_inner().mounts;
        Ok(mounts.into_iter().map(from_wire).collect())
    }

    pub(crate) async fn remove_rootfs(&self, snapshotter: &str, key: &str) -> Result<()> {
        let message = RemoveSnapshotRequest { snapshotter: snapshotter.into(), key: key.into() };
        match self.rootfs_stub().remove(self.request(message)?).await {
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            answer => answer.context("remove snapshot", key).map(drop),
        }
    }
}
