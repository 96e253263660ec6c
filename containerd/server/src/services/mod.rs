//! The gRPC API: each service decodes, calls the core, and encodes.

mod containers;
pub(crate) mod content;
pub(crate) mod convert;
mod diff;
mod events;
mod headers;
mod health;
mod images;
mod introspection;
mod leases;
mod legacy;
mod namespaces;
mod sandbox;
pub(crate) mod snapshots;
mod streaming;
mod tasks;
mod transfer;
mod version;

use containerd_api::{
    grpc::health::v1::health_server::HealthServer,
    legacy::api_server::ApiServer,
    services::{
        containers::v1::containers_server::ContainersServer,
        content::v1::content_server::ContentServer, diff::v1::diff_server::DiffServer,
        events::v1::events_server::EventsServer, images::v1::images_server::ImagesServer,
        introspection::v1::introspection_server::IntrospectionServer,
        leases::v1::leases_server::LeasesServer,
        namespaces::v1::namespaces_server::NamespacesServer,
        sandbox::v1::store_server::StoreServer, snapshots::v1::snapshots_server::SnapshotsServer,
        streaming::v1::streaming_server::StreamingServer, tasks::v1::tasks_server::TasksServer,
        transfer::v1::transfer_server::TransferServer, version::v1::version_server::VersionServer,
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};

use crate::{assembly::Core, config::Config, identity::Identity};

/// All services that the configuration does not switch off, and their names.
/// `stop` ends requests that would go on for ever.
pub(crate) fn routes(
    core: &Core,
    identity: Identity,
    config: &Config,
    stop: &CancellationToken,
) -> (Routes, Vec<&'static str>) {
    let is_disabled = |plugin: &str| config.is_disabled(plugin);
    let mut names = Vec::new();
    let mut routes = Routes::builder();
    // Each server is a type of its own, so this cannot be a loop.
    macro_rules! serve {
        ($plugin:literal, $server:ident, $service:expr) => {
            if !is_disabled(concat!("io.containerd.grpc.v1.", $plugin)) {
                let server = $server::new($service)
                    .max_decoding_message_size(config.grpc.max_recv_message_size)
                    .max_encoding_message_size(config.grpc.max_send_message_size);
                names.push(name(&server));
                routes.add_service(server);
            }
        };
    }
    serve!("containers", ContainersServer, containers::Service(core.containers.clone()));
    serve!(
        "content",
        ContentServer,
        content::Service { content: core.content.clone(), stop: stop.clone() }
    );
    serve!("diff", DiffServer, diff::Service(core.diff.clone()));
    serve!("events", EventsServer, events::Service(core.events.clone()));
    serve!(
        "images",
        ImagesServer,
        images::Service { images: core.images.clone(), gc: core.gc.clone() }
    );
    serve!(
        "introspection",
        IntrospectionServer,
        introspection::Service {
            identity,
            plugins: introspection::plugins(is_disabled, &core.opened),
            manager: core.manager.clone(),
        }
    );
    serve!(
        "leases",
        LeasesServer,
        leases::Service { leases: core.leases.clone(), gc: core.gc.clone() }
    );
    serve!(
        "legacy",
        ApiServer,
        legacy::Service { legacy: core.legacy.clone(), stop: stop.clone() }
    );
    serve!("namespaces", NamespacesServer, namespaces::Service(core.namespaces.clone()));
    serve!("sandboxes", StoreServer, sandbox::Service(core.sandboxes.clone()));
    serve!("snapshots", SnapshotsServer, snapshots::Service(core.snapshots.clone()));
    let streams = streaming::Streams::default();
    serve!(
        "streaming",
        StreamingServer,
        streaming::Service { streams: streams.clone(), stop: stop.clone() }
    );
    serve!(
        "transfer",
        TransferServer,
        transfer::Service {
            transfers: core.transfers.clone(),
            streams,
            hosts_dirs: config.transfer.hosts_dirs.clone(),
            stop: stop.clone(),
        }
    );
    serve!("tasks", TasksServer, tasks::Service { tasks: core.tasks.clone(), stop: stop.clone() });
    serve!("version", VersionServer, version::Service);
    serve!(
        "healthcheck",
        HealthServer,
        health::Service { names: names.clone(), stop: stop.clone() }
    );
    (routes.routes(), names)
}

/// The full name of a service.
fn name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}
