//! `containerd.services.snapshots.v1.Snapshots`.

use containerd_api::services::snapshots::v1 as api;
use containerd_core::snapshots::{Commit, Info, Kind, New, Snapshots};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use shim_protocol::Result;
use tonic::{Request, Response, Status};

use super::{
    convert::{mount_out, required},
    headers,
};
use crate::status;

/// How many entries one message of a listing has.
const LISTED: usize = 100;

pub(crate) struct Service(pub(crate) Snapshots);

fn encode(info: Info) -> api::Info {
    let kind = match info.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    api::Info {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(info.created_at.into()),
        updated_at: Some(info.updated_at.into()),
        labels: info.labels,
    }
}

/// Sizes have a sign on the wire.
fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

impl Service {
    async fn find(&self, request: Request<api::ListSnapshotsRequest>) -> Result<Vec<Info>> {
        let namespace = headers::namespace(request.metadata())?;
        let request = request.into_inner();
        self.0.list(&namespace, &request.snapshotter, &request.filters).await
    }

    async fn change(&self, request: Request<api::UpdateSnapshotRequest>) -> Result<api::Info> {
        let namespace = headers::namespace(request.metadata())?;
        let request = request.into_inner();
        let info = required("info", request.info)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let (snapshotter, key) = (&request.snapshotter, &info.name);
        self.0.update(&namespace, snapshotter, key, info.labels, &paths).await.map(encode)
    }
}

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let namespace = headers::namespace(&metadata).map_err(status::of)?;
        let lease = headers::lease(&metadata).map_err(status::of)?;
        let api::PrepareSnapshotRequest { snapshotter, key, parent, labels } = request;
        let new = New { key, parent, labels };
        let mounts =
            self.0.prepare(&namespace, &snapshotter, new, lease).await.map_err(status::of)?;
        let mounts = mounts.into_iter().map(mount_out).collect();
        Ok(Response::new(api::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let namespace = headers::namespace(&metadata).map_err(status::of)?;
        let lease = headers::lease(&metadata).map_err(status::of)?;
        let api::ViewSnapshotRequest { snapshotter, key, parent, labels } = request;
        let new = New { key, parent, labels };
        let mounts = self.0.view(&namespace, &snapshotter, new, lease).await.map_err(status::of)?;
        let mounts = mounts.into_iter().map(mount_out).collect();
        Ok(Response::new(api::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let mounts = self.0.mounts(&namespace, &request.snapshotter, &request.key).await;
        let mounts = mounts.map_err(status::of)?.into_iter().map(mount_out).collect();
        Ok(Response::new(api::MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (metadata, _, request) = request.into_parts();
        let namespace = headers::namespace(&metadata).map_err(status::of)?;
        let lease = headers::lease(&metadata).map_err(status::of)?;
        let api::CommitSnapshotRequest { snapshotter, name, key, labels, parent } = request;
        let commit = Commit { name, key, parent, labels };
        self.0.commit(&namespace, &snapshotter, commit, lease).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let (metadata, _, request) = request.into_parts();
        let namespace = headers::namespace(&metadata).map_err(status::of)?;
        let lease = headers::lease(&metadata).map_err(status::of)?;
        let api::RemoveSnapshotRequest { snapshotter, key } = request;
        self.0.remove(&namespace, &snapshotter, &key, lease).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let info = self.0.stat(&namespace, &request.snapshotter, &request.key).await;
        let info = Some(encode(info.map_err(status::of)?));
        Ok(Response::new(api::StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let info = Some(self.change(request).await.map_err(status::of)?);
        Ok(Response::new(api::UpdateSnapshotResponse { info }))
    }

    type ListStream = BoxStream<'static, Result<api::ListSnapshotsResponse, Status>>;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let found = self.find(request).await.map_err(status::of)?;
        let infos = stream::iter(found).map(encode).chunks(LISTED);
        let messages = infos.map(|info| Ok(api::ListSnapshotsResponse { info }));
        Ok(Response::new(messages.boxed()))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let usage = self.0.usage(&namespace, &request.snapshotter, &request.key).await;
        let usage = usage.map_err(status::of)?;
        let (size, inodes) = (signed(usage.size), signed(usage.inodes));
        Ok(Response::new(api::UsageResponse { size, inodes }))
    }

    async fn cleanup(&self, request: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        self.0.cleanup(&request.get_ref().snapshotter).await.map_err(status::of)?;
        Ok(Response::new(()))
    }
}
