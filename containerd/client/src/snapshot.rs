//! Snapshots: filesystems that build upon each other.

use std::{collections::BTreeMap, time::SystemTime};

use containerd_api::{
    services::snapshots::v1::{
        CleanupRequest, CommitSnapshotRequest, Info as WireInfo, Kind, ListSnapshotsRequest,
        MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
        UpdateSnapshotRequest, UsageRequest, ViewSnapshotRequest,
        snapshots_client::SnapshotsClient,
    },
    types::Mount,
};
use prost_types::FieldMask;
use tonic::transport::Channel;

use crate::{
    Context, Error, Namespace, Result, RootMount, SnapshotUsage, client::MAX_MESSAGE_BYTES, time,
};

/// What can be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// The daemon does not say.
    Unknown,
    /// It is read, and can be removed.
    View,
    /// It is written to, and can be committed or removed.
    Active,
    /// Others can build upon it.
    Committed,
}

impl SnapshotKind {
    /// Its name as Go's clients print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::View => "View",
            Self::Active => "Active",
            Self::Committed => "Committed",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// The key of an active one or a view, the name of a committed one.
    pub name: String,
    /// Name of the one that it builds upon; may be empty.
    pub parent: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When it was committed, or its labels were last changed.
    pub updated_at: Option<SystemTime>,
}

impl From<WireInfo> for SnapshotInfo {
    fn from(wire: WireInfo) -> Self {
        let kind = match wire.kind() {
            Kind::Unknown => SnapshotKind::Unknown,
            Kind::View => SnapshotKind::View,
            Kind::Active => SnapshotKind::Active,
            Kind::Committed => SnapshotKind::Committed,
        };
        Self {
            kind,
            name: wire.name,
            parent: wire.parent,
            labels: wire.labels,
            created_at: time::from_wire(wire.created_at),
            updated_at: time::from_wire(wire.updated_at),
        }
    }
}

impl Namespace {
    /// The snapshots of this namespace that `snapshotter` keeps.
    pub fn snapshots(&self, snapshotter: impl Into<String>) -> Snapshots {
        Snapshots { namespace: self.clone(), snapshotter: snapshotter.into() }
    }
}

/// The snapshots of a namespace that one snapshotter keeps. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshots {
    namespace: Namespace,
    snapshotter: String,
}

impl Snapshots {
    fn stub(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.namespace.client().channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The snapshotter's name.
    pub fn snapshotter(&self) -> &str {
        &self.snapshotter
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when there is no such snapshotter, also
    /// below.
    pub async fn stat(&self, key: &str) -> Result<SnapshotInfo> {
        const ACTION: &str = "get snapshot";
        let message =
            StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let response = self.stub().stat(self.namespace.request(message)?).await;
        let info = response.context(ACTION, key)?.into_inner().info;
        info.map(Into::into).ok_or_else(|| Error::incomplete(ACTION, "info"))
    }

    /// The snapshots that one of `filters` matches; all if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<SnapshotInfo>> {
        const ACTION: &str = "list snapshots";
        let message = ListSnapshotsRequest {
            snapshotter: self.snapshotter.clone(),
            filters: filters.to_vec(),
        };
        let response = self.stub().list(self.namespace.request(message)?).await;
        let mut answers = response.context(ACTION, "")?.into_inner();
        let mut found = Vec::new();
        while let Some(answer) = answers.message().await.context(ACTION, "")? {
            found.extend(answer.info.into_iter().map(SnapshotInfo::from));
        }
        Ok(found)
    }

    /// Sets labels; an empty value removes one, and others stay.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a label is bad.
    pub async fn set_labels(
        &self,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<SnapshotInfo> {
        const ACTION: &str = "label snapshot";
        if labels.is_empty() {
            // A mask without a path would mean all of them.
            return self.stat(key).await;
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let message = UpdateSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            info: Some(WireInfo { name: key.into(), labels, ..Default::default() }),
            update_mask: Some(FieldMask { paths }),
        };
        let response = self.stub().update(self.namespace.request(message)?).await;
        let info = response.context(ACTION, key)?.into_inner().info;
        info.map(Into::into).ok_or_else(|| Error::incomplete(ACTION, "info"))
    }

    /// How much disk a snapshot takes.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn usage(&self, key: &str) -> Result<SnapshotUsage> {
        let message = UsageRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let response = self.stub().usage(self.namespace.request(message)?).await;
        let usage = response.context("measure snapshot", key)?.into_inner();
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        let (size, inodes) = (unsigned(usage.size), unsigned(usage.inodes));
        Ok(SnapshotUsage { name: key.to_owned(), size, inodes })
    }

    /// How an active snapshot or a view is mounted.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one.
    pub async fn mounts(&self, key: &str) -> Result<Vec<RootMount>> {
        let message = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let response = self.stub().mounts(self.namespace.request(message)?).await;
        Ok(mounts(response.context("get mounts of snapshot", key)?.into_inner().mounts))
    }

    /// Makes a snapshot that can be written to; `parent` may be empty.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` when there is no such parent;
    /// `InvalidArgument` when the parent is not committed, or a label is bad.
    pub async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<RootMount>> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels,
        };
        let response = self.stub().prepare(self.namespace.request(message)?).await;
        Ok(mounts(response.context("prepare snapshot", key)?.into_inner().mounts))
    }

    /// Makes a snapshot that is only read; `parent` may be empty.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn view(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<RootMount>> {
        let message = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.into(),
            parent: parent.into(),
            labels,
        };
        let response = self.stub().view(self.namespace.request(message)?).await;
        Ok(mounts(response.context("view snapshot", key)?.into_inner().mounts))
    }

    /// Fixes an active snapshot under a name. If it was made without a parent,
    /// some snapshotters can give it one now; `parent` is empty when it keeps
    /// what it has.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound`; `FailedPrecondition` when it is not active;
    /// `InvalidArgument` when it has another parent, or a label is bad;
    /// `Unimplemented` when it cannot get one now.
    pub async fn commit(
        &self,
        name: &str,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        let message = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.into(),
            key: key.into(),
            labels,
            parent: parent.into(),
        };
        let response = self.stub().commit(self.namespace.request(message)?).await;
        response.context("commit snapshot", key).map(drop)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when others build upon it.
    pub async fn remove(&self, key: &str) -> Result<()> {
        let message =
            RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.into() };
        let response = self.stub().remove(self.namespace.request(message)?).await;
        response.context("remove snapshot", key).map(drop)
    }

    /// Frees what removed snapshots have left on disk.
    ///
    /// # Errors
    /// `Unimplemented` when the snapshotter leaves nothing.
    pub async fn cleanup(&self) -> Result<()> {
        let message = CleanupRequest { snapshotter: self.snapshotter.clone() };
        let response = self.stub().cleanup(self.namespace.request(message)?).await;
        response.context("clean up snapshotter", &self.snapshotter).map(drop)
    }
}

fn mounts(mounts: Vec<Mount>) -> Vec<RootMount> {
    let mount = |wire: Mount| RootMount {
        kind: wire.r#type,
        source: wire.source,
        target: wire.target,
        options: wire.options,
    };
    mounts.into_iter().map(mount).collect()
}
