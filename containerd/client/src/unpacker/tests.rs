use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use containerd_api::services::{
    leases::v1::{self as leases, leases_server::LeasesServer},
    snapshots::v1::{self as snapshots, snapshots_server::SnapshotsServer},
};
use futures::{future::BoxFuture, stream};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::Client;

/// A daemon with one snapshot, or none.
#[derive(Clone, Default)]
struct Daemon(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_there: AtomicBool,
    is_active: AtomicBool,
    /// Whether it is collected before a lease holds it.
    goes: AtomicBool,
    held: AtomicU32,
}

/// Calls that nobody makes, as [`tonic::async_trait`] wants them.
macro_rules! unused {
    ($($name:ident: $from:ty => $to:ty;)*) => {
        $(fn $name<'a, 'b>(
            &'a self,
            _: Request<$from>,
        ) -> BoxFuture<'b, std::result::Result<Response<$to>, Status>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}

#[tonic::async_trait]
impl snapshots::snapshots_server::Snapshots for Daemon {
    type ListStream = stream::Empty<std::result::Result<snapshots::ListSnapshotsResponse, Status>>;

    async fn stat(
        &self,
        request: Request<snapshots::StatSnapshotRequest>,
    ) -> std::result::Result<Response<snapshots::StatSnapshotResponse>, Status> {
        if !self.0.is_there.load(Ordering::SeqCst) {
            return Err(Status::not_found("snapshot"));
        }
        let kind = match self.0.is_active.load(Ordering::SeqCst) {
            true => snapshots::Kind::Active,
            false => snapshots::Kind::Committed,
        };
        let name = request.into_inner().key;
        let info = snapshots::Info { name, kind: kind.into(), ..Default::default() };
        Ok(Response::new(snapshots::StatSnapshotResponse { info: Some(info) }))
    }

    unused! {
        prepare: snapshots::PrepareSnapshotRequest => snapshots::PrepareSnapshotResponse;
        view: snapshots::ViewSnapshotRequest => snapshots::ViewSnapshotResponse;
        mounts: snapshots::MountsRequest => snapshots::MountsResponse;
        commit: snapshots::CommitSnapshotRequest => ();
        remove: snapshots::RemoveSnapshotRequest => ();
        update: snapshots::UpdateSnapshotRequest => snapshots::UpdateSnapshotResponse;
        list: snapshots::ListSnapshotsRequest => Self::ListStream;
        usage: snapshots::UsageRequest => snapshots::UsageResponse;
        cleanup: snapshots::CleanupRequest => ();
    }
}

#[tonic::async_trait]
impl leases::leases_server::Leases for Daemon {
    async fn add_resource(
        &self,
        _: Request<leases::AddResourceRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        if self.0.goes.load(Ordering::SeqCst) {
            self.0.is_there.store(false, Ordering::SeqCst);
        }
        self.0.held.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(()))
    }

    unused! {
        create: leases::CreateRequest => leases::CreateResponse;
        delete: leases::DeleteRequest => ();
        list: leases::ListRequest => leases::ListResponse;
        delete_resource: leases::DeleteResourceRequest => ();
        list_resources: leases::ListResourcesRequest => leases::ListResourcesResponse;
    }
}

#[tokio::test]
async fn a_snapshot_that_goes_before_it_is_held_is_not_there() {
    let (daemon, folder) = (Daemon::default(), tempfile::tempdir().unwrap());
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let connections = stream::unfold(listener, |listener| async move {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let server = Server::builder()
        .add_service(SnapshotsServer::new(daemon.clone()))
        .add_service(LeasesServer::new(daemon.clone()))
        .serve_with_incoming(connections);
    let server = tokio::spawn(server);
    let client = Client::connect(&socket).await.unwrap();
    let unpacker = client.namespace("ns").with_lease("lease").unpacker("overlayfs");

    assert!(!unpacker.has("layer").await.unwrap());
    daemon.0.is_there.store(true, Ordering::SeqCst);
    assert!(unpacker.has("layer").await.unwrap());
    // A key that somebody gave it, of what may still change.
    daemon.0.is_active.store(true, Ordering::SeqCst);
    assert!(!unpacker.has("layer").await.unwrap());
    daemon.0.is_active.store(false, Ordering::SeqCst);
    daemon.0.goes.store(true, Ordering::SeqCst);
    assert!(!unpacker.has("layer").await.unwrap());
    assert_eq!(daemon.0.held.load(Ordering::SeqCst), 2);
    server.abort();
}
