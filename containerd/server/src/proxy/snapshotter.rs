//! A snapshotter that is another process.

use std::time::{Duration, SystemTime};

use containerd_api::services::snapshots::v1::{self as api, snapshots_client::SnapshotsClient};
use containerd_core::{
    Mount,
    snapshots::{self, Info, Kind, Labels, Usage},
};
use prost_types::FieldMask;
use shim_protocol::{Error, ErrorKind, Result};
use tonic::transport::Channel;

use super::connection::{answer, lazy, request};
use crate::services::convert::{mount_in, time_in};

/// How long an answer may take that needs no work.
const QUICK: Duration = Duration::from_secs(60);

/// How long an answer may take that needs some, such as a copy of a filesystem.
const SLOW: Duration = Duration::from_secs(1800);

/// See the [module](self).
pub(crate) struct Snapshotter {
    client: SnapshotsClient<Channel>,
    /// What it calls itself.
    name: String,
}

impl Snapshotter {
    /// The snapshotter `name` at the socket `address`, which need not be there
    /// yet.
    ///
    /// # Errors
    /// `InvalidArgument` when the address is none of a socket.
    pub(crate) fn new(name: &str, address: &str, max_message: usize) -> Result<Self> {
        let client = SnapshotsClient::new(lazy(address)?)
            .max_decoding_message_size(max_message)
            .max_encoding_message_size(max_message);
        Ok(Self { client, name: name.to_owned() })
    }

    fn client(&self) -> SnapshotsClient<Channel> {
        self.client.clone()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn info(info: Option<api::Info>) -> Result<Info> {
    let missing = || Error::new(ErrorKind::DataLoss, "the snapshotter told nothing");
    let info = info.ok_or_else(missing)?;
    let time =
        |time: Option<prost_types::Timestamp>| time.map_or(Ok(SystemTime::UNIX_EPOCH), time_in);
    let kind = match info.kind() {
        api::Kind::View => Kind::View,
        api::Kind::Active => Kind::Active,
        api::Kind::Committed | api::Kind::Unknown => Kind::Committed,
    };
    Ok(Info {
        kind,
        name: info.name,
        parent: info.parent,
        labels: info.labels,
        created_at: time(info.created_at)?,
        updated_at: time(info.updated_at)?,
    })
}

fn mounts(mounts: Vec<containerd_api::types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(mount_in).collect()
}

/// Sizes have a sign on the wire.
fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or_default()
}

#[tonic::async_trait]
impl snapshots::Snapshotter for Snapshotter {
    async fn stat(&self, key: &str) -> Result<Info> {
        let message = api::StatSnapshotRequest { snapshotter: self.name(), key: key.into() };
        let response = self.client().stat(request(message, key, QUICK)).await;
        info(answer(response, "look at snapshot", key)?.into_inner().info)
    }

    async fn update(&self, key: &str, labels: Labels, paths: &[String]) -> Result<Info> {
        let message = api::UpdateSnapshotRequest {
            snapshotter: self.name(),
            info: Some(api::Info { name: key.into(), labels, ..Default::default() }),
            update_mask: Some(FieldMask { paths: paths.to_vec() }),
        };
        let response = self.client().update(request(message, key, QUICK)).await;
        info(answer(response, "label snapshot", key)?.into_inner().info)
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let message = api::UsageRequest { snapshotter: self.name(), key: key.into() };
        let response = self.client().usage(request(message, key, SLOW)).await;
        let usage = answer(response, "measure snapshot", key)?.into_inner();
        Ok(Usage { size: unsigned(usage.size), inodes: unsigned(usage.inodes) })
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let message = api::MountsRequest { snapshotter: self.name(), key: key.into() };
        let response = self.client().mounts(request(message, key, QUICK)).await;
        Ok(mounts(answer(response, "get mounts of snapshot", key)?.into_inner().mounts))
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let message = api::PrepareSnapshotRequest {
            snapshotter: self.name(),
            key: key.into(),
            parent: parent.into(),
            labels,
        };
        let response = self.client().prepare(request(message, key, SLOW)).await;
        Ok(mounts(answer(response, "prepare snapshot", key)?.into_inner().mounts))
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let message = api::ViewSnapshotRequest {
            snapshotter: self.name(),
            key: key.into(),
            parent: parent.into(),
            labels,
        };
        let response = self.client().view(request(message, key, SLOW)).await;
        Ok(mounts(answer(response, "view snapshot", key)?.into_inner().mounts))
    }

    async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let message = api::CommitSnapshotRequest {
            snapshotter: self.name(),
            name: name.into(),
            key: key.into(),
            labels,
            parent: parent.into(),
        };
        let response = self.client().commit(request(message, key, SLOW)).await;
        answer(response, "commit snapshot", key).map(drop)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let message = api::RemoveSnapshotRequest { snapshotter: self.name(), key: key.into() };
        let response = self.client().remove(request(message, key, SLOW)).await;
        answer(response, "remove snapshot", key).map(drop)
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        const ACTION: &str = "list snapshots of";
        let message =
            api::ListSnapshotsRequest { snapshotter: self.name(), filters: filters.to_vec() };
        let response = self.client().list(request(message, "", SLOW)).await;
        let mut stream = answer(response, ACTION, &self.name)?.into_inner();
        let mut found = Vec::new();
        while let Some(part) = answer(stream.message().await, ACTION, &self.name)? {
            for one in part.info {
                found.push(info(Some(one))?);
            }
        }
        Ok(found)
    }

    async fn cleanup(&self) -> Result<()> {
        let message = api::CleanupRequest { snapshotter: self.name() };
        let response = self.client().cleanup(request(message, "", SLOW)).await;
        answer(response, "clean up snapshotter", &self.name).map(drop)
    }
}
