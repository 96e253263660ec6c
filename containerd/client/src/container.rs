//! Containers: what is to be run, and with which runtime.

use std::{collections::BTreeMap, time::SystemTime};

use containerd_api::{
    runc::v1::Options as RuncOptions,
    services::containers::v1::{
        Container as Wire, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
        ListContainersRequest, UpdateContainerRequest, container::Runtime as WireRuntime,
    },
    to_any,
};
use oci_spec::runtime::Spec;
use prost_types::{Any, FieldMask};
use serde::Serialize;

use crate::{
    Context, DEFAULT_RUNTIME, Error, ErrorKind, Namespace, Result,
    spec::{self, SPEC_URL},
    time,
};

/// What runs a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Such as `io.containerd.runc.v2`, or the path of a shim.
    pub name: String,
    /// Options that the runtime understands.
    pub options: Option<Any>,
}

impl Runtime {
    /// A runtime without options.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), options: None }
    }

    /// The runc shim, with its options.
    pub fn runc(options: &RuncOptions) -> Self {
        Self { name: DEFAULT_RUNTIME.into(), options: Some(to_any(options)) }
    }
}

/// What the daemon has on record of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRecord {
    /// Its identifier.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Name of the image it was made from; empty if there is none.
    pub image: String,
    /// What runs it.
    pub runtime: Runtime,
    /// Its OCI configuration as JSON.
    pub spec: Option<Any>,
    /// Name of the snapshotter that has its root filesystem; empty if there is
    /// none.
    pub snapshotter: String,
    /// Key of its snapshot.
    pub snapshot_key: String,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When its record was last changed.
    pub updated_at: Option<SystemTime>,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox that it belongs to; empty if there is none.
    pub sandbox: String,
}

impl From<Wire> for ContainerRecord {
    fn from(wire: Wire) -> Self {
        let runtime = wire.runtime.unwrap_or_default();
        Self {
            id: wire.id,
            labels: wire.labels,
            image: wire.image,
            runtime: Runtime { name: runtime.name, options: runtime.options },
            spec: wire.spec,
            snapshotter: wire.snapshotter,
            snapshot_key: wire.snapshot_key,
            created_at: time::from_wire(wire.created_at),
            updated_at: time::from_wire(wire.updated_at),
            extensions: wire.extensions,
            sandbox: wire.sandbox,
        }
    }
}

/// A container to be made.
#[derive(Clone, Debug)]
pub struct NewContainer(Wire);

impl NewContainer {
    /// A container with the default runtime and nothing else. It needs a
    /// [`spec`](Self::spec).
    pub fn new(id: impl Into<String>) -> Self {
        let runtime = WireRuntime { name: DEFAULT_RUNTIME.into(), options: None };
        Self(Wire { id: id.into(), runtime: Some(runtime), ..Wire::default() })
    }

    /// Its OCI configuration: a [`Spec`], or any JSON that the runtime takes.
    ///
    /// # Errors
    /// `InvalidArgument` when it cannot be made into JSON.
    pub fn spec(mut self, spec: &impl Serialize) -> Result<Self> {
        self.0.spec = Some(spec::to_any(SPEC_URL, spec)?);
        Ok(self)
    }

    /// What runs it.
    #[must_use]
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.0.runtime = Some(WireRuntime { name: runtime.name, options: runtime.options });
        self
    }

    /// Adds labels.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        self.0.labels.extend(labels);
        self
    }

    /// Adds what clients keep with it.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: Any) -> Self {
        self.0.extensions.insert(name.into(), value);
        self
    }

    /// The name of the image it is made from.
    #[must_use]
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.0.image = name.into();
        self
    }

    /// The snapshot that is its root filesystem.
    #[must_use]
    pub fn snapshot(mut self, snapshotter: impl Into<String>, key: impl Into<String>) -> Self {
        self.0.snapshotter = snapshotter.into();
        self.0.snapshot_key = key.into();
        self
    }
}

impl Namespace {
    /// Makes a container. It has no process yet: that is its task's.
    ///
    /// # Errors
    /// `AlreadyExists`, or `InvalidArgument` when the id, a label or the
    /// runtime's name is bad.
    pub async fn create_container(&self, container: NewContainer) -> Result<Container> {
        let id = container.0.id.clone();
        let request = self.request(CreateContainerRequest { container: Some(container.0) })?;
        let response =
            self.containers_stub().create(request).await.context("create container", &id)?;
        Container::new(self, "create container", response.into_inner().container)
    }

    /// The container `id`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn container(&self, id: &str) -> Result<Container> {
        let request = self.request(GetContainerRequest { id: id.into() })?;
        let response = self.containers_stub().get(request).await.context("get container", id)?;
        Container::new(self, "get container", response.into_inner().container)
    }

    /// The containers that one of `filters` matches; all if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn containers(&self, filters: &[String]) -> Result<Vec<Container>> {
        let request = self.request(ListContainersRequest { filters: filters.to_vec() })?;
        let response = self.containers_stub().list(request).await.context("list containers", "")?;
        let containers = response.into_inner().containers.into_iter();
        containers.map(|wire| Container::new(self, "list containers", Some(wire))).collect()
    }
}

/// A container. The record in it is as old as the handle, or as the last call
/// that got a new one.
#[derive(Clone, Debug)]
pub struct Container {
    namespace: Namespace,
    record: ContainerRecord,
}

impl Container {
    fn new(namespace: &Namespace, action: &str, wire: Option<Wire>) -> Result<Self> {
        let wire = wire.ok_or_else(|| Error::incomplete(action, "container"))?;
        Ok(Self { namespace: namespace.clone(), record: wire.into() })
    }

    /// Its identifier.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The namespace that it is in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What the daemon had on record when this was read.
    pub fn record(&self) -> &ContainerRecord {
        &self.record
    }

    /// Its OCI configuration.
    ///
    /// # Errors
    /// `DataLoss` when it has none, or one that makes no sense.
    pub fn spec(&self) -> Result<Spec> {
        let any =
            self.record.spec.as_ref().ok_or_else(|| {
                Error::new(ErrorKind::DataLoss, format!("{} has no spec", self.id()))
            })?;
        serde_json::from_slice(&any.value).map_err(|e| {
            Error::caused(ErrorKind::DataLoss, format!("read spec of container {}", self.id()), e)
        })
    }

    /// Reads the record again.
    ///
    /// # Errors
    /// `NotFound` when the container is gone.
    pub async fn refresh(&mut self) -> Result<()> {
        *self = self.namespace.container(&self.record.id).await?;
        Ok(())
    }

    /// Sets labels; an empty value removes one, and others stay.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a label is bad.
    pub async fn set_labels(&mut self, labels: BTreeMap<String, String>) -> Result<()> {
        if labels.is_empty() {
            // A mask without a path would mean the whole record.
            return self.refresh().await;
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let wire = Wire { labels, ..Wire::default() };
        self.update("label container", wire, paths).await
    }

    /// Gives it another OCI configuration, for its next task.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when the configuration is no JSON.
    pub async fn set_spec(&mut self, spec: &impl Serialize) -> Result<()> {
        let wire = Wire { spec: Some(spec::to_any(SPEC_URL, spec)?), ..Wire::default() };
        self.update("update container", wire, vec!["spec".into()]).await
    }

    /// Keeps something with it.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when the name is bad.
    pub async fn set_extension(&mut self, name: &str, value: Any) -> Result<()> {
        let wire = Wire { extensions: [(name.to_owned(), value)].into(), ..Wire::default() };
        self.update("update container", wire, vec![format!("extensions.{name}")]).await
    }

    async fn update(&mut self, action: &str, wire: Wire, paths: Vec<String>) -> Result<()> {
        let request = self.namespace.request(UpdateContainerRequest {
            container: Some(Wire { id: self.record.id.clone(), ..wire }),
            update_mask: Some(FieldMask { paths }),
        })?;
        let response =
            self.namespace.containers_stub().update(request).await.context(action, self.id())?;
        *self = Self::new(&self.namespace, action, response.into_inner().container)?;
        Ok(())
    }

    /// Deletes the container, not what it was made from.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it has a task.
    pub async fn delete(&self) -> Result<()> {
        let request = self.namespace.request(DeleteContainerRequest { id: self.id().into() })?;
        self.namespace
            .containers_stub()
            .delete(request)
            .await
            .context("delete container", self.id())?;
        Ok(())
    }
}
