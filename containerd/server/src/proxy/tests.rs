//! The suite of snapshotters, through a socket.

mod content;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use async_trait::async_trait;
use containerd_api::{
    NAMESPACE_HEADER, services::snapshots::v1::snapshots_server::SnapshotsServer,
};
use containerd_core::{
    announce::{Announcer, ObjectEvent, ObjectEvents},
    metadata::Db,
    snapshots::{
        Backend, Labels, Layout, Local, LocalConfig, OverlayConfig, Snapshots,
        Snapshotter as Trait, suite::Rig,
    },
};
use shim_protocol::{ErrorKind, Id, Result};
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Server};

use super::Snapshotter;
use crate::services::snapshots::Service;

const NAME: &str = "remote";

/// Nobody listens.
struct Silence;

#[async_trait]
impl ObjectEvents for Silence {
    async fn publish_object(&self, _: &Id, _: ObjectEvent) -> Result<()> {
        Ok(())
    }
}

/// Another process: all snapshots of one daemon, in one namespace.
async fn serve(root: &Path, socket: &Path) -> JoinHandle<()> {
    let db = Db::open(root).await.unwrap();
    let local = LocalConfig {
        name: NAME.into(),
        root: root.join("snapshotter"),
        layout: Layout::Overlay(OverlayConfig::default()),
        foreign: false,
        sync_remove: false,
    };
    let local = Local::open(local, db.clone()).await.unwrap();
    let backends = BTreeMap::from([(NAME.to_owned(), Backend::Local(local))]);
    let announcer = Announcer::start(Arc::new(Silence));
    let snapshots = Snapshots::open(db, announcer, backends).await.unwrap();
    // Whatever the keys of the tests begin with is one namespace here.
    let in_one = |mut request: Request<()>| {
        request.metadata_mut().insert(NAMESPACE_HEADER, "one".parse().unwrap());
        Ok::<_, Status>(request)
    };
    let service = InterceptedService::new(SnapshotsServer::new(Service(snapshots)), in_one);
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(async move {
        Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    })
}

/// Ends with its owner.
struct Abort(JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn connect(socket: &Path) -> Snapshotter {
    Snapshotter::new(NAME, &socket.display().to_string(), 16 << 20).unwrap()
}

async fn rig() -> Option<Rig> {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let server = Abort(serve(folder.path(), &socket).await);
    let snapshotter = Arc::new(connect(&socket));
    Some(Rig { snapshotter, rebases: true, keep: Box::new((server, folder)) })
}

containerd_core::snapshot_suite!(conformance, super::rig);

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_may_come_later_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let snapshotter = connect(&socket);
    let unavailable = Some(ErrorKind::Unavailable);
    assert_eq!(kind(snapshotter.list(&[]).await), unavailable);
    for round in 0..2 {
        // It ends with all its connections, as a process does.
        let process = tokio::runtime::Runtime::new().unwrap();
        let (root, path) = (folder.path().join(format!("root {round}")), socket.clone());
        process.spawn(async move { drop(serve(&root, &path).await) }).await.unwrap();
        let prepare = || snapshotter.prepare("a", "", Labels::new());
        let mut outcome = kind(prepare().await);
        if outcome == unavailable {
            // The end of the last connection was not noticed yet.
            outcome = kind(prepare().await);
        }
        assert_eq!(outcome, None);
        assert_eq!(kind(prepare().await), Some(ErrorKind::AlreadyExists));
        process.shutdown_background();
        std::fs::remove_file(&socket).unwrap();
    }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[test]
fn an_address_is_a_path() {
    for bad in ["", "relative", "http://x"] {
        assert!(Snapshotter::new(NAME, bad, 1).is_err(), "{bad:?}");
    }
}
