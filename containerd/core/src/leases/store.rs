//! Leases in the database.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
    ops::ControlFlow,
    time::SystemTime,
};

use shim_protocol::{Error, Id, Result};

use super::{Lease, Resource, record::Record};
use crate::{
    filter::Filter,
    labels,
    metadata::{
        Change, Db, Key, Read, last_part, last_parts,
        schema::{CONTENT, IMAGES, LEASE_RESOURCES, LEASES, SNAPSHOTS},
    },
    namespaces,
};

/// The leases of all namespaces.
#[derive(Clone)]
pub struct Leases {
    db: Db,
}

impl Leases {
    /// Leases in `db`.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Makes a lease that holds nothing yet, and its namespace too if that is
    /// new. An empty `id` lets the store choose one.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that id; `InvalidArgument` when the
    /// id has a NUL byte in it.
    pub async fn create(
        &self,
        namespace: &Id,
        id: &str,
        mut labels: BTreeMap<String, String>,
    ) -> Result<Lease> {
        labels::drop_empty(&mut labels);
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db
            .write(move |change| {
                namespaces::ensure(change, &namespace)?;
                let (id, key) = unused_id(change, &namespace, id)?;
                let lease = Lease { id, labels, created_at: SystemTime::now() };
                change.put(LEASES, &key, &Record::from(&lease))?;
                Ok(lease)
            })
            .await
    }

    /// Drops a lease; what nothing else refers to may then be collected.
    ///
    /// # Errors
    /// `NotFound` when there is none of that id.
    pub async fn delete(&self, namespace: &Id, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db
            .write(move |change| {
                let key = existing(change, &namespace, &id)?;
                change.remove(LEASES, &key)?;
                change.remove_all(LEASE_RESOURCES, &key)
            })
            .await
    }

    /// The leases of `namespace` that any of `filters` matches, by id; all
    /// without filters. Fields: `id`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(&self, namespace: &Id, filters: &[S]) -> Result<Vec<Lease>> {
        let filter = Filter::parse(filters)?;
        let namespace = Key::new(&[namespace])?;
        self.db
            .read(move |db| {
                let mut found = Vec::new();
                db.each(LEASES, &namespace, |key, record: Record| {
                    let lease = record.into_lease(last_part(key)?.to_owned());
                    if filter.matches(&lease) {
                        found.push(lease);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Lets a lease hold one more object. It may hold it already.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease; `InvalidArgument` or
    /// `Unimplemented` when a lease cannot hold such an object.
    pub async fn add_resource(&self, namespace: &Id, id: &str, resource: Resource) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db.write(move |change| hold(change, &namespace, &id, &resource)).await
    }

    /// Lets a lease hold one object less. It need not hold it.
    ///
    /// # Errors
    /// As [`Self::add_resource`].
    pub async fn delete_resource(
        &self,
        namespace: &Id,
        id: &str,
        resource: Resource,
    ) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db
            .write(move |change| {
                let key = resource_key(change, &namespace, &id, &resource)?;
                if change.remove(LEASE_RESOURCES, &key)? {
                    change.note_deletion();
                }
                Ok(())
            })
            .await
    }

    /// What a lease holds, by kind and id.
    ///
    /// # Errors
    /// `NotFound` when there is no such lease.
    pub async fn resources(&self, namespace: &Id, id: &str) -> Result<Vec<Resource>> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db
            .read(move |db| {
                let lease = existing(db, &namespace, &id)?;
                let mut held = Vec::new();
                db.scan(LEASE_RESOURCES, &lease, |key, _| {
                    let [kind, id] = last_parts(key)?;
                    held.push(Resource { id: id.to_owned(), kind: kind.to_owned() });
                    Ok(ControlFlow::Continue(()))
                })?;
                Ok(held)
            })
            .await
    }
}

/// Lets a lease hold one more object, as part of the change that makes it.
///
/// # Errors
/// `NotFound` when there is no such lease.
pub(crate) fn hold(
    change: &mut Change<'_>,
    namespace: &Id,
    id: &str,
    resource: &Resource,
) -> Result<()> {
    let key = resource_key(change, namespace, id, resource)?;
    change.put_bytes(LEASE_RESOURCES, &key, &[])
}

/// Lets a lease hold one object less, as part of the change that removes it.
/// A lease that is gone holds nothing anyway.
pub(crate) fn let_go(
    change: &mut Change<'_>,
    namespace: &Id,
    id: &str,
    resource: &Resource,
) -> Result<()> {
    let key = Key::new(&[namespace, id, &resource.kind, &resource.id])?;
    change.remove(LEASE_RESOURCES, &key).map(drop)
}

/// All that leases of any namespace hold of a kind, by namespace and id.
pub(crate) fn all_held(db: &impl Read, kind: &str) -> Result<HashSet<(String, String)>> {
    let mut held = HashSet::new();
    db.scan(LEASE_RESOURCES, &Key::new(&[])?, |key, _| {
        let [namespace, _, found, id] = last_parts(key)?;
        if found == kind {
            held.insert((namespace.to_owned(), id.to_owned()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(held)
}

/// What leases hold that is recorded, but is not there: namespace, lease, and
/// the object. That is no fault: clients may hold what is still to come.
pub(crate) fn dangling(db: &impl Read) -> Result<Vec<(String, String, Resource)>> {
    let mut dangling = Vec::new();
    db.scan(LEASE_RESOURCES, &Key::new(&[])?, |key, _| {
        let [namespace, lease, kind, id] = last_parts(key)?;
        let there = match (kind, kind.strip_prefix("snapshots/")) {
            ("content", _) => db.has(CONTENT, &Key::new(&[namespace, id])?)?,
            ("images", _) => db.has(IMAGES, &Key::new(&[namespace, id])?)?,
            (_, Some(snapshotter)) => {
                db.has(SNAPSHOTS, &Key::new(&[namespace, snapshotter, id])?)?
            }
            _ => true,
        };
        if !there {
            let resource = Resource { id: id.to_owned(), kind: kind.to_owned() };
            dangling.push((namespace.to_owned(), lease.to_owned(), resource));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(dangling)
}

/// Whether any lease of a namespace holds something.
pub(crate) fn is_held(db: &impl Read, namespace: &Id, resource: &Resource) -> Result<bool> {
    let mut held = false;
    db.scan(LEASE_RESOURCES, &Key::new(&[namespace])?, |key, _| {
        let [kind, id] = last_parts(key)?;
        held |= kind == resource.kind && id == resource.id;
        Ok(if held { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(held)
}

/// The key of a lease that exists.
fn existing(db: &impl Read, namespace: &Id, id: &str) -> Result<Key> {
    let key = Key::new(&[namespace, id])?;
    if db.has(LEASES, &key)? {
        Ok(key)
    } else {
        Err(Error::not_found(format!("lease {id:?} in namespace {namespace:?}")))
    }
}

fn resource_key(db: &impl Read, namespace: &Id, id: &str, resource: &Resource) -> Result<Key> {
    existing(db, namespace, id)?;
    resource.validate()?;
    Key::new(&[namespace, id, &resource.kind, &resource.id])
}

/// `id`, or if that is empty a new one, with its key.
fn unused_id(db: &impl Read, namespace: &Id, id: String) -> Result<(String, Key)> {
    if !id.is_empty() {
        let key = Key::new(&[namespace, &id])?;
        if db.has(LEASES, &key)? {
            let what = format!("lease {id:?} in namespace {namespace:?}");
            return Err(Error::already_exists(what));
        }
        return Ok((id, key));
    }
    loop {
        let id = random_id();
        let key = Key::new(&[namespace, &id])?;
        if !db.has(LEASES, &key)? {
            return Ok((id, key));
        }
    }
}

/// Something like containerd's: nanoseconds of the clock and a random number.
fn random_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // std seeds it from the kernel's random numbers.
    let random = RandomState::new().hash_one(now);
    format!("{}-{:08x}", now.subsec_nanos(), random >> 32)
}
