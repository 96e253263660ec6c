//! Leases: what keeps things alive that nothing refers to yet.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime},
};

use containerd_api::services::leases::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, Lease as Wire,
    ListRequest, ListResourcesRequest, Resource as WireResource,
};

use prost_types::Timestamp;

use crate::{Context, Error, Namespace, Result, time};

/// When leases end that were made for one piece of work, should their maker
/// not live to delete them. Go's clients have the same.
pub(crate) const WORK_EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// Label with the time, in RFC 3339, at which the daemon drops a lease.
pub(crate) const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its identifier.
    pub id: String,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Lease {
    /// The label that makes a lease end by itself; its value is a time in
    /// RFC 3339.
    pub const EXPIRE_LABEL: &'static str = EXPIRE_LABEL;

    /// An id that nobody else has.
    pub fn random_id() -> String {
        // The standard library seeds its hashers at random.
        format!("{:016x}", RandomState::new().hash_one(SystemTime::now()))
    }

    /// The label that makes a lease end after so long.
    pub fn expires(after: Duration) -> (String, String) {
        let end = SystemTime::now().checked_add(after).unwrap_or(SystemTime::UNIX_EPOCH);
        (EXPIRE_LABEL.into(), Timestamp::from(end).to_string())
    }
}

impl From<Wire> for Lease {
    fn from(wire: Wire) -> Self {
        Self { id: wire.id, created_at: time::from_wire(wire.created_at), labels: wire.labels }
    }
}

/// A thing that a lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Identifier: a digest, a snapshot's key.
    pub id: String,
    /// Kind: `content`, `snapshots/overlayfs`, `ingests`.
    pub kind: String,
}

impl From<Resource> for WireResource {
    fn from(resource: Resource) -> Self {
        Self { id: resource.id, r#type: resource.kind }
    }
}

impl Namespace {
    /// The leases of this namespace.
    pub fn leases(&self) -> Leases {
        Leases { namespace: self.clone() }
    }

    /// Works under a lease that holds what is made until the work is done. A
    /// view that has a lease already keeps it.
    ///
    /// # Errors
    /// Those of the work, and of the lease.
    pub async fn under_lease<T>(&self, work: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        if self.lease().is_some() {
            return work(self).await;
        }
        let leases = self.leases();
        let id = Lease::random_id();
        leases.create(&id, [Lease::expires(WORK_EXPIRES)].into()).await?;
        let result = work(&self.with_lease(&id)).await;
        // It ends by itself if this fails; what failed before matters more.
        match leases.delete(&id, false).await {
            Err(e) if !e.is_not_found() && result.is_ok() => Err(e),
            _ => result,
        }
    }
}

/// The leases of a namespace.
#[derive(Clone, Debug)]
pub struct Leases {
    namespace: Namespace,
}

impl Leases {
    /// Creates a lease.
    ///
    /// # Errors
    /// `AlreadyExists`, or `InvalidArgument` when the id or a label is bad.
    pub async fn create(&self, id: &str, labels: BTreeMap<String, String>) -> Result<Lease> {
        const ACTION: &str = "create lease";
        let request = self.namespace.request(CreateRequest { id: id.into(), labels })?;
        let response = self.namespace.leases_stub().create(request).await.context(ACTION, id)?;
        response
            .into_inner()
            .lease
            .map(Into::into)
            .ok_or_else(|| Error::incomplete(ACTION, "lease"))
    }

    /// The leases that one of `filters` matches; all if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Lease>> {
        let request = self.namespace.request(ListRequest { filters: filters.to_vec() })?;
        let response =
            self.namespace.leases_stub().list(request).await.context("list leases", "")?;
        Ok(response.into_inner().leases.into_iter().map(Into::into).collect())
    }

    /// Deletes a lease. With `sync`, what it alone held is gone on return.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete(&self, id: &str, sync: bool) -> Result<()> {
        let request = self.namespace.request(DeleteRequest { id: id.into(), sync })?;
        self.namespace.leases_stub().delete(request).await.context("delete lease", id)?;
        Ok(())
    }

    /// Puts a thing under a lease.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease, `InvalidArgument` when the kind
    /// of thing is unknown.
    pub async fn add_resource(&self, id: &str, resource: Resource) -> Result<()> {
        let message = AddResourceRequest { id: id.into(), resource: Some(resource.into()) };
        let request = self.namespace.request(message)?;
        self.namespace.leases_stub().add_resource(request).await.context("add to lease", id)?;
        Ok(())
    }

    /// Takes a thing out of a lease.
    ///
    /// # Errors
    /// As [`Leases::add_resource`].
    pub async fn delete_resource(&self, id: &str, resource: Resource) -> Result<()> {
        let message = DeleteResourceRequest { id: id.into(), resource: Some(resource.into()) };
        let request = self.namespace.request(message)?;
        self.namespace
            .leases_stub()
            .delete_resource(request)
            .await
            .context("remove from lease", id)?;
        Ok(())
    }

    /// What a lease holds.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn resources(&self, id: &str) -> Result<Vec<Resource>> {
        let request = self.namespace.request(ListResourcesRequest { id: id.into() })?;
        let response = self
            .namespace
            .leases_stub()
            .list_resources(request)
            .await
            .context("list resources of lease", id)?;
        let resources = response.into_inner().resources;
        Ok(resources.into_iter().map(|r| Resource { id: r.id, kind: r.r#type }).collect())
    }
}
