//! The daemon in this process, seen through its sockets.

use containerd_api::{
    NAMESPACE_HEADER,
    grpc::health::v1::{
        HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus,
        health_client::HealthClient,
    },
    services::{
        containers::v1::{
            Container, CreateContainerRequest, GetContainerRequest, container,
            containers_client::ContainersClient,
        },
        events::v1::{SubscribeRequest, events_client::EventsClient},
        introspection::v1::{PluginsRequest, introspection_client::IntrospectionClient},
        leases::v1::{ListRequest, leases_client::LeasesClient},
        namespaces::v1::{CreateNamespaceRequest, Namespace, namespaces_client::NamespacesClient},
        tasks::v1::{GetRequest, tasks_client::TasksClient},
        version::v1::version_client::VersionClient,
    },
};
use protobuf::well_known_types::{any::Any, timestamp::Timestamp};
use shim_protocol::proto::{
    events_ttrpc::ForwardRequest, events_ttrpc_ttrpc::EventsClient as ShimEvents, types::Envelope,
};
use tempfile::TempDir;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint as Target},
};

use super::*;
use crate::{config::Overrides, plugins::PluginName};

/// A daemon in folders of its own.
struct Daemon {
    folder: TempDir,
    config: Config,
    running: Running,
    channel: Channel,
}

fn config(folder: &TempDir) -> Config {
    let flags = Overrides {
        root: Some(folder.path().join("root")),
        state: Some(folder.path().join("state")),
        address: Some(folder.path().join("a.sock")),
        ..Overrides::default()
    };
    Config::load(None, flags).unwrap().0
}

impl Daemon {
    async fn start(adapt: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder);
        adapt(&mut config);
        let running = App::bind(config.clone()).await.unwrap().start().await.unwrap();
        let address = format!("unix://{}", config.grpc.socket.address.display());
        let channel = Target::from_shared(address).unwrap().connect().await.unwrap();
        Self { folder, config, running, channel }
    }
}

fn in_namespace<T>(namespace: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE_HEADER, namespace.parse().unwrap());
    request
}

#[tokio::test]
async fn clients_are_answered() {
    let daemon = Daemon::start(|_| {}).await;
    let version = VersionClient::new(daemon.channel.clone()).version(()).await.unwrap();
    assert_eq!(version.into_inner().version, env!("CARGO_PKG_VERSION"));

    let mut health = HealthClient::new(daemon.channel.clone());
    let listed = health.list(HealthListRequest {}).await.unwrap().into_inner().statuses;
    for service in ["", "containerd.services.images.v1.Images"] {
        assert!(listed.contains_key(service), "{service:?} of {:?}", listed.keys());
    }
    assert!(listed.values().all(|s| s.status() == ServingStatus::Serving));
    let unknown = HealthCheckRequest { service: "a.b.C".into() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    assert!(daemon.running.drain().await);
}

#[tokio::test]
async fn requests_are_checked() {
    let daemon = Daemon::start(|_| {}).await;
    let mut containers = ContainersClient::new(daemon.channel.clone());
    let get = || GetContainerRequest { id: "a".into() };
    let error = containers.get(get()).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("namespace is required"));
    let error = containers.get(in_namespace("a/b", get())).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = containers.get(in_namespace("default", get())).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    let mut tasks = TasksClient::new(daemon.channel.clone());
    let bad = GetRequest { container_id: "../a".into(), exec_id: String::new() };
    let error = tasks.get(in_namespace("default", bad)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("../a"));

    let mut namespaces = NamespacesClient::new(daemon.channel.clone());
    let error = namespaces.create(CreateNamespaceRequest { namespace: None }).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(daemon.running.drain().await);
}

/// Clients send up to 16 MiB, as containerd lets them.
#[tokio::test]
async fn large_messages_are_taken_up_to_a_limit() {
    const MIB: usize = 1 << 20;
    let daemon = Daemon::start(|_| {}).await;
    let mut containers = ContainersClient::new(daemon.channel.clone())
        .max_decoding_message_size(16 * MIB)
        .max_encoding_message_size(32 * MIB);
    let mut create = async |id: &str, size| {
        let spec = prost_types::Any { type_url: "spec".into(), value: vec![0; size] };
        let runtime = Some(container::Runtime { name: "a.b.v1".into(), options: None });
        let id = id.to_owned();
        let container = Container { id, runtime, spec: Some(spec), ..Default::default() };
        let request = CreateContainerRequest { container: Some(container) };
        containers.create(in_namespace("default", request)).await
    };
    let created = create("a", 5 * MIB).await.unwrap().into_inner().container.unwrap();
    assert_eq!(created.spec.unwrap().value.len(), 5 * MIB);
    assert_eq!(create("b", 17 * MIB).await.unwrap_err().code(), Code::OutOfRange);
    assert!(daemon.running.drain().await);
}

#[tokio::test]
async fn what_is_switched_off_is_not_there() {
    let off = "io.containerd.grpc.v1.leases";
    let daemon = Daemon::start(|config| {
        config.disabled_plugins = vec![PluginName::new(off.into()).unwrap()];
    })
    .await;
    let mut leases = LeasesClient::new(daemon.channel.clone());
    let error = leases.list(in_namespace("default", ListRequest::default())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);

    let mut introspection = IntrospectionClient::new(daemon.channel.clone());
    let mut list = async |filters: &[&str]| {
        let filters = filters.iter().map(|text| (*text).to_owned()).collect();
        introspection.plugins(PluginsRequest { filters }).await.unwrap().into_inner().plugins
    };
    assert_eq!(list(&["id==leases"]).await, []);
    assert_eq!(list(&["id==tasks,type==io.containerd.grpc.v1"]).await.len(), 1);
    let runtime = list(&["type==io.containerd.runtime.v2"]).await;
    assert_eq!(runtime[0].platforms[0].os, "linux");
    assert!(daemon.running.drain().await);
}

#[tokio::test]
async fn a_drain_ends_streams() {
    let daemon = Daemon::start(|_| {}).await;
    let mut events = EventsClient::new(daemon.channel.clone());
    let subscribe = SubscribeRequest { filters: vec!["topic~=\"^/namespaces\"".into()] };
    let mut events = events.subscribe(subscribe).await.unwrap().into_inner();
    let mut health = HealthClient::new(daemon.channel.clone());
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let now = health.message().await.unwrap().unwrap();
    assert_eq!(now.status(), ServingStatus::Serving);

    let namespace = Namespace { name: "a".into(), ..Default::default() };
    let create = CreateNamespaceRequest { namespace: Some(namespace) };
    NamespacesClient::new(daemon.channel.clone()).create(create).await.unwrap();
    let envelope = events.message().await.unwrap().unwrap();
    assert_eq!((envelope.topic.as_str(), envelope.namespace.as_str()), ("/namespaces/create", "a"));

    let sockets = [&daemon.config.grpc.socket.address, &daemon.config.ttrpc.address];
    assert!(sockets.iter().all(|path| path.exists()));
    assert!(daemon.running.drain().await);
    assert_eq!(events.message().await.unwrap(), None);
    let last = health.message().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert_eq!(health.message().await.unwrap(), None);
    assert!(!sockets.iter().any(|path| path.exists()));
}

#[tokio::test]
async fn a_server_that_has_failed_is_drained_too() {
    let mut daemon = Daemon::start(|_| {}).await;
    daemon.running.server.abort();
    assert_eq!(daemon.running.failed().await.kind(), ErrorKind::Internal);
    assert!(daemon.running.drain().await);
}

#[tokio::test]
async fn the_root_has_one_daemon() {
    let daemon = Daemon::start(|_| {}).await;
    let second = App::bind(config(&daemon.folder)).await.err().unwrap();
    assert_eq!(second.kind(), ErrorKind::FailedPrecondition);
    let root = daemon.config.root.display().to_string();
    assert!(second.report().to_string().contains(&root), "{second:?}");
    assert!(daemon.running.drain().await);
    // Then there is room for the next one.
    let next = App::bind(config(&daemon.folder)).await.unwrap();
    assert!(next.start().await.unwrap().drain().await);
}

#[tokio::test]
async fn events_of_shims_reach_subscribers() {
    let daemon = Daemon::start(|_| {}).await;
    let mut events = EventsClient::new(daemon.channel.clone());
    let mut events = events.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();

    let address = format!("unix://{}", daemon.config.ttrpc.address.display());
    let client = ttrpc::r#async::Client::connect(&address).await.unwrap();
    let shim = ShimEvents::new(client);
    let mut envelope =
        Envelope { namespace: "n".into(), topic: "/a/b".into(), ..Envelope::default() };
    let forward = |envelope: &Envelope| {
        let envelope = Some(envelope.clone()).into();
        let request = ForwardRequest { envelope, ..Default::default() };
        let shim = shim.clone();
        async move { shim.forward(ttrpc::context::with_timeout(0), &request).await }
    };
    let Err(ttrpc::Error::RpcStatus(refused)) = forward(&envelope).await else {
        panic!("an envelope without an event was taken");
    };
    assert_eq!(refused.code(), ttrpc::Code::INVALID_ARGUMENT);

    let event = Any { type_url: "t".into(), ..Default::default() };
    envelope.event = Some(event).into();
    envelope.timestamp = Some(Timestamp { seconds: 1, ..Default::default() }).into();
    forward(&envelope).await.unwrap();
    let received = events.message().await.unwrap().unwrap();
    assert_eq!((received.namespace.as_str(), received.topic.as_str()), ("n", "/a/b"));
    assert_eq!(received.event.unwrap().type_url, "t");
    assert!(daemon.running.drain().await);
}
