//! Namespaces, and what is reached through one.

use std::collections::BTreeMap;

use containerd_api::{
    LEASE_HEADER, NAMESPACE_HEADER,
    services::{
        containers::v1::containers_client::ContainersClient,
        leases::v1::leases_client::LeasesClient,
        namespaces::v1::{
            CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest,
            ListNamespacesRequest, Namespace as Wire, UpdateNamespaceRequest,
            namespaces_client::NamespacesClient,
        },
        tasks::v1::tasks_client::TasksClient,
    },
};
use prost_types::FieldMask;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::{Client, Context, Error, Result, client::MAX_MESSAGE_BYTES};

/// A view of one namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Namespace {
    client: Client,
    name: String,
    lease: Option<String>,
}

impl Namespace {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name, lease: None }
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection below.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same view, under a lease: what is created through it is held by
    /// the lease until something refers to it.
    #[must_use]
    pub fn with_lease(&self, id: impl Into<String>) -> Self {
        Self { lease: Some(id.into()), ..self.clone() }
    }

    /// The lease of this view.
    pub fn lease(&self) -> Option<&str> {
        self.lease.as_deref()
    }

    /// A request to this namespace, for stubs of `containerd_api` that this
    /// library has no handle for.
    ///
    /// # Errors
    /// `InvalidArgument` when the name of the namespace or of the lease cannot
    /// be a header.
    pub fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let headers = [(NAMESPACE_HEADER, Some(&self.name)), (LEASE_HEADER, self.lease.as_ref())];
        for (key, text) in headers {
            let Some(text) = text else { continue };
            let value = MetadataValue::try_from(text)
                .map_err(|_| Error::invalid(format!("{key} {text:?} is not printable ASCII")))?;
            request.metadata_mut().insert(key, value);
        }
        Ok(request)
    }

    pub(crate) fn containers_stub(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.client.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn tasks_stub(&self) -> TasksClient<Channel> {
        TasksClient::new(self.client.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn leases_stub(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.client.channel())
    }
}

/// What the daemon knows of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// Its name.
    pub name: String,
    /// Its labels; `containerd.io/defaults/runtime` is one that the daemon heeds.
    pub labels: BTreeMap<String, String>,
}

impl From<Wire> for NamespaceRecord {
    fn from(wire: Wire) -> Self {
        Self { name: wire.name, labels: wire.labels }
    }
}

impl Client {
    /// All namespaces.
    pub fn namespaces(&self) -> Namespaces {
        Namespaces { client: self.clone() }
    }
}

/// The list of namespaces.
#[derive(Clone, Debug)]
pub struct Namespaces {
    client: Client,
}

impl Namespaces {
    fn stub(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.client.channel())
    }

    /// A request about the namespace `name`. Go's daemon wants the header too:
    /// it publishes the event of the change where the header says.
    fn request<T>(&self, name: &str, message: T) -> Result<Request<T>> {
        self.client.namespace(name).request(message)
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// `AlreadyExists`, or `InvalidArgument` when the name or a label is bad.
    pub async fn create(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<NamespaceRecord> {
        let namespace = Some(Wire { name: name.into(), labels });
        let request = self.request(name, CreateNamespaceRequest { namespace })?;
        let response = self.stub().create(request).await;
        unwrap("create namespace", name, response.map(|r| r.into_inner().namespace))
    }

    /// One namespace.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, name: &str) -> Result<NamespaceRecord> {
        let response = self.stub().get(GetNamespaceRequest { name: name.into() }).await;
        unwrap("get namespace", name, response.map(|r| r.into_inner().namespace))
    }

    /// All namespaces, ordered by name.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list(&self) -> Result<Vec<NamespaceRecord>> {
        let response = self
            .stub()
            .list(ListNamespacesRequest::default())
            .await
            .context("list namespaces", "")?;
        let mut list: Vec<NamespaceRecord> =
            response.into_inner().namespaces.into_iter().map(Into::into).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// Sets labels; an empty value removes one, and others stay.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a label is bad.
    pub async fn set_labels(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<NamespaceRecord> {
        if labels.is_empty() {
            // A mask without a path would mean all of them.
            return self.get(name).await;
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let message = UpdateNamespaceRequest {
            namespace: Some(Wire { name: name.into(), labels }),
            update_mask: Some(FieldMask { paths }),
        };
        let response = self.stub().update(self.request(name, message)?).await;
        unwrap("label namespace", name, response.map(|r| r.into_inner().namespace))
    }

    /// Deletes a namespace.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when there is something in it.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let request = self.request(name, DeleteNamespaceRequest { name: name.into() })?;
        self.stub().delete(request).await.context("delete namespace", name)?;
        Ok(())
    }
}

fn unwrap(
    action: &str,
    name: &str,
    response: Result<Option<Wire>, tonic::Status>,
) -> Result<NamespaceRecord> {
    let wire = response.context(action, name)?;
    wire.map(Into::into).ok_or_else(|| Error::incomplete(action, "namespace"))
}
