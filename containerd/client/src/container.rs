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
    Context, DEFAULT_RUNTIME, Error, ErrorKind, Namespace, Result, RootMount, SpecBuilder, mount,
    rootfs::{self, NewSnapshot},
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
pub struct NewContainer {
    wire: Wire,
    snapshot: Option<NewSnapshot>,
    /// Needs the files of the snapshot.
    spec: Option<SpecBuilder>,
}

impl NewContainer {
    /// A container with the default runtime and nothing else. It needs a
    /// [`spec`](Self::spec).
    pub fn new(id: impl Into<String>) -> Self {
        let runtime = WireRuntime { name: DEFAULT_RUNTIME.into(), options: None };
        let wire = Wire { id: id.into(), runtime: Some(runtime), ..Wire::default() };
        Self { wire, snapshot: None, spec: None }
    }

    /// Its OCI configuration: a [`Spec`], or any JSON that the runtime takes.
    ///
    /// # Errors
    /// `InvalidArgument` when it cannot be made into JSON.
    pub fn spec(mut self, spec: &impl Serialize) -> Result<Self> {
        self.wire.spec = Some(spec::to_any(SPEC_URL, spec)?);
        Ok(self)
    }

    /// Its OCI configuration as it was written before.
    pub(crate) fn any_spec(mut self, spec: Any) -> Self {
        self.wire.spec = Some(spec);
        self
    }

    /// Whether a snapshot is made for it.
    pub(crate) fn has_new_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Its OCI configuration, to be built when it is made. If it gets a
    /// snapshot, the user is looked up in that.
    #[must_use]
    pub fn build_spec(mut self, spec: SpecBuilder) -> Self {
        self.spec = Some(spec);
        self
    }

    /// What runs it.
    #[must_use]
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.wire.runtime = Some(WireRuntime { name: runtime.name, options: runtime.options });
        self
    }

    /// Adds labels.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        self.wire.labels.extend(labels);
        self
    }

    #[cfg(test)]
    pub(crate) fn all_labels(&self) -> &BTreeMap<String, String> {
        &self.wire.labels
    }

    /// Adds what clients keep with it.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: Any) -> Self {
        self.wire.extensions.insert(name.into(), value);
        self
    }

    /// The name of the image it is made from.
    #[must_use]
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.wire.image = name.into();
        self
    }

    /// The snapshot that is its root filesystem.
    #[must_use]
    pub fn snapshot(mut self, snapshotter: impl Into<String>, key: impl Into<String>) -> Self {
        self.wire.snapshotter = snapshotter.into();
        self.wire.snapshot_key = key.into();
        self
    }
    /// Makes a snapshot on top of `parent` (the chain id of an image), which is
    /// its root filesystem.
    #[must_use]
    pub fn new_snapshot(
        self,
        snapshotter: impl Into<String>,
        key: impl Into<String>,
        parent: impl Into<String>,
    ) -> Self {
        self.with_snapshot(snapshotter, key, parent.into(), false)
    }

    /// As [`NewContainer::new_snapshot`], but one that nobody can write to.
    #[must_use]
    pub fn new_view(
        self,
        snapshotter: impl Into<String>,
        key: impl Into<String>,
        parent: impl Into<String>,
    ) -> Self {
        self.with_snapshot(snapshotter, key, parent.into(), true)
    }

    fn with_snapshot(
        self,
        snapshotter: impl Into<String>,
        key: impl Into<String>,
        parent: String,
        read_only: bool,
    ) -> Self {
        let labels = self.snapshot.as_ref().map(|new| new.labels.clone()).unwrap_or_default();
        let snapshot = Some(NewSnapshot { parent, read_only, labels });
        Self { snapshot, ..self.snapshot(snapshotter, key) }
    }

    /// Labels of the snapshot that is made for it.
    #[must_use]
    pub fn snapshot_labels(mut self, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.labels.extend(labels);
        }
        self
    }
}

impl Namespace {
    /// Makes a container. It has no process yet: that is its task's.
    ///
    /// # Errors
    /// `AlreadyExists`, or `InvalidArgument` when the id, a label or the
    /// runtime's name is bad; those of its snapshot, which is not left then.
    pub async fn create_container(&self, container: NewContainer) -> Result<Container> {
        let NewContainer { mut wire, snapshot, spec } = container;
        let Some(snapshot) = snapshot else {
            if let Some(spec) = spec {
                wire.spec = Some(spec::to_any(SPEC_URL, &spec.build()?)?);
            }
            return self.create_record(wire).await;
        };
        // Nothing refers to the snapshot before the record is there.
        self.under_lease(async |namespace: &Self| {
            wire.snapshotter = namespace.snapshotter(&wire.snapshotter).await?;
            let snapshots = namespace.snapshots(&wire.snapshotter);
            let key = wire.snapshot_key.clone();
            let mounts = snapshot.make(&snapshots, &key).await?;
            let made = async {
                if let Some(spec) = spec {
                    let spec = build_in(spec, mounts).await?;
                    wire.spec = Some(spec::to_any(SPEC_URL, &spec)?);
                }
                namespace.create_record(wire).await
            };
            let made = made.await;
            if made.is_err() {
                // What failed first matters more, and the lease holds it no longer.
                let _ = rootfs::remove(&snapshots, &key).await;
            }
            Ok(Container { namespace: self.clone(), record: made?.record })
        })
        .await
    }

    async fn create_record(&self, wire: Wire) -> Result<Container> {
        let id = wire.id.clone();
        let request = self.request(CreateContainerRequest { container: Some(wire) })?;
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

    /// The same container by another view of its namespace.
    pub(crate) fn in_namespace(self, namespace: &Namespace) -> Self {
        Self { namespace: namespace.clone(), ..self }
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
    /// Deletes the container with its snapshot; the snapshot may be gone.
    ///
    /// # Errors
    /// As [`Container::delete`]; those of the snapshotter.
    pub async fn delete_with_snapshot(&self) -> Result<()> {
        let ContainerRecord { snapshotter, snapshot_key, .. } = self.record();
        if !snapshot_key.is_empty() {
            // First, as Go's clients do: without the record nothing would tell
            // that the snapshot is left.
            self.refuse_with_task().await?;
            rootfs::remove(&self.namespace.snapshots(snapshotter), snapshot_key).await?;
        }
        self.delete().await
    }

    /// A task needs the snapshot.
    async fn refuse_with_task(&self) -> Result<()> {
        match self.task().await {
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e),
            Ok(_) => {
                let text = format!("delete container {}: it has a task", self.id());
                Err(Error::new(ErrorKind::FailedPrecondition, text))
            }
        }
    }
}

/// Builds a configuration whose user is in the files of these mounts.
async fn build_in(spec: SpecBuilder, mounts: Vec<RootMount>) -> Result<Spec> {
    if !spec.needs_files() {
        return spec.build();
    }
    let look = move || mount::with_files(&mounts, |files| spec.build_with(files));
    let built = tokio::task::spawn_blocking(look).await;
    built.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "build spec: panic")))
}
