//! The generated gRPC clients, with the namespace in every request.

use std::path::Path;

use anyhow::{Context, Result, bail};
use containerd_api::{
    NAMESPACE_HEADER,
    services::{
        containers::v1::containers_client::ContainersClient,
        content::v1::content_client::ContentClient, diff::v1::diff_client::DiffClient,
        events::v1::events_client::EventsClient, images::v1::images_client::ImagesClient,
        introspection::v1::introspection_client::IntrospectionClient,
        leases::v1::leases_client::LeasesClient,
        namespaces::v1::namespaces_client::NamespacesClient,
        sandbox::v1::store_client::StoreClient, snapshots::v1::snapshots_client::SnapshotsClient,
        streaming::v1::streaming_client::StreamingClient, tasks::v1::tasks_client::TasksClient,
        transfer::v1::transfer_client::TransferClient, version::v1::version_client::VersionClient,
    },
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// A connection to a daemon, for one namespace.
#[derive(Clone)]
pub struct Api {
    channel: Channel,
    namespace: Namespace,
}

/// Puts the namespace header into each request, if there is one to put.
#[derive(Clone)]
pub struct Namespace(Option<MetadataValue<Ascii>>);

impl Interceptor for Namespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(name) = &self.0 {
            request.metadata_mut().insert(NAMESPACE_HEADER, name.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Namespace>;

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident),+ $(,)?) => {
        $($(#[$doc])* pub fn $name(&self) -> $client<Service> {
            $client::with_interceptor(self.channel.clone(), self.namespace.clone())
        })+
    };
}

impl Api {
    /// Connects to the daemon at `socket`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(socket: &Path, namespace: &str) -> Result<Self> {
        let address = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(address)?.connect().await;
        let channel = channel.with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Self { channel, namespace: Namespace(Some(namespace.parse()?)) })
    }

    /// The same connection for another namespace.
    ///
    /// # Errors
    /// The name cannot be a header.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self> {
        Ok(Self { namespace: Namespace(Some(namespace.parse()?)), ..self.clone() })
    }

    /// The same connection without the header that every request needs.
    pub fn without_namespace(&self) -> Self {
        Self { namespace: Namespace(None), ..self.clone() }
    }

    /// The bare connection, for services without a method here.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    clients! {
        /// Container records.
        containers: ContainersClient,
        /// Content.
        content: ContentClient,
        /// Layers.
        diff: DiffClient,
        /// Publish and subscribe.
        events: EventsClient,
        /// Images.
        images: ImagesClient,
        /// Plugins and server.
        introspection: IntrospectionClient,
        /// Leases.
        leases: LeasesClient,
        /// Namespaces.
        namespaces: NamespacesClient,
        /// Records of sandboxes.
        sandboxes: StoreClient,
        /// Snapshots.
        snapshots: SnapshotsClient,
        /// Streams that transfers refer to.
        streaming: StreamingClient,
        /// Tasks.
        tasks: TasksClient,
        /// Transfers.
        transfer: TransferClient,
        /// Version.
        version: VersionClient,
    }
}

/// The gRPC code and message of a call that must fail.
///
/// # Errors
/// The call succeeded.
pub fn code<T>(result: Result<T, Status>) -> Result<(Code, String)> {
    match result {
        Ok(_) => bail!("the call succeeded and should not have"),
        Err(status) => Ok((status.code(), status.message().to_owned())),
    }
}
