//! Namespaces in the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use shim_protocol::{Error, Id, Result};

use super::{Namespace, record::Record};
use crate::{
    announce::{Announcer, ObjectEvent},
    filter::Filter,
    labels,
    metadata::{
        Change, Db, Key, Read, last_part, last_parts,
        schema::{
            CONTAINERS, CONTENT, IMAGES, LEASE_RESOURCES, LEASES, NAMESPACES, SANDBOXES, SNAPSHOTS,
        },
    },
};

/// All namespaces.
#[derive(Clone)]
pub struct Namespaces {
    db: Db,
    announcer: Announcer,
}

impl Namespaces {
    /// Namespaces in `db`; changes are announced by `announcer`.
    pub fn new(db: Db, announcer: Announcer) -> Self {
        Self { db, announcer }
    }

    /// The namespace `name`. One that nobody has made yet has no labels, since
    /// the first object in it will make it (as in containerd).
    ///
    /// # Errors
    /// Those of the database only.
    pub async fn get(&self, name: &Id) -> Result<Namespace> {
        let name = name.clone();
        self.db
            .read(move |db| {
                let labels = read(db, &name)?.unwrap_or_default();
                Ok(Namespace { name, labels })
            })
            .await
    }

    /// The namespaces that any of `filters` matches, by name; all without
    /// filters. Fields: `name`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(&self, filters: &[S]) -> Result<Vec<Namespace>> {
        let filter = Filter::parse(filters)?;
        let all = Key::new(&[])?;
        self.db
            .read(move |db| {
                let mut found = Vec::new();
                db.each(NAMESPACES, &all, |key, record: Record| {
                    let name = Id::new("namespace", last_part(key)?)?;
                    let namespace = Namespace { name, labels: record.labels };
                    if filter.matches(&namespace) {
                        found.push(namespace);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name; `InvalidArgument` when
    /// a label is too long.
    pub async fn create(&self, namespace: Namespace) -> Result<Namespace> {
        let name = namespace.name.clone();
        self.announcer
            .write(&self.db, &name, move |change| {
                if read(change, &namespace.name)?.is_some() {
                    let what = format!("namespace {:?}", namespace.name);
                    return Err(Error::already_exists(what));
                }
                let Namespace { name, labels } = put(change, namespace)?;
                let event =
                    ObjectEvent::NamespaceCreate { name: name.clone(), labels: labels.clone() };
                Ok((Namespace { name, labels }, event))
            })
            .await
    }

    /// Changes the labels that `paths` names: `labels`, or `labels.<key>`. No
    /// path stands for all labels. `namespace` has the new values; a label
    /// that it lacks is removed. A namespace that does not exist is made (as
    /// in containerd).
    ///
    /// # Errors
    /// `InvalidArgument` when a path names something else, or a label is too long.
    pub async fn update<S: AsRef<str>>(
        &self,
        namespace: Namespace,
        paths: &[S],
    ) -> Result<Namespace> {
        let mask = labels::Mask::parse(paths, "a namespace")?;
        let name = namespace.name.clone();
        self.announcer
            .write(&self.db, &name, move |change| {
                let Namespace { name, labels: new } = namespace;
                let old = read(change, &name)?.unwrap_or_default();
                let labels = mask.apply(old, new);
                let Namespace { name, labels } = put(change, Namespace { name, labels })?;
                let event =
                    ObjectEvent::NamespaceUpdate { name: name.clone(), labels: labels.clone() };
                Ok((Namespace { name, labels }, event))
            })
            .await
    }

    /// Removes a namespace, and the leases and sandboxes in it.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name; `FailedPrecondition` when
    /// it still has images, content, containers or snapshots.
    pub async fn delete(&self, name: &Id) -> Result<()> {
        let namespace = name.clone();
        self.announcer
            .write(&self.db, name, move |change| {
                let key = Key::new(&[&namespace])?;
                let remaining = remaining(change, &key)?;
                if !remaining.is_empty() {
                    return Err(Error::precondition(format!(
                        "namespace {namespace:?} must be empty, but it still has {}",
                        remaining.join(", ")
                    )));
                }
                if !change.remove(NAMESPACES, &key)? {
                    return Err(Error::not_found(format!("namespace {namespace:?}")));
                }
                change.remove_all(LEASES, &key)?;
                change.remove_all(LEASE_RESOURCES, &key)?;
                change.remove_all(SANDBOXES, &key)?;
                Ok(((), ObjectEvent::NamespaceDelete { name: namespace }))
            })
            .await
    }
}

/// What keeps a namespace from being removed, in containerd's words.
fn remaining(db: &impl Read, namespace: &Key) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (table, what) in [(IMAGES, "images"), (CONTENT, "blobs"), (CONTAINERS, "containers")] {
        if db.any(table, namespace)? {
            found.push(what.to_owned());
        }
    }
    let mut snapshotters = BTreeSet::new();
    db.scan(SNAPSHOTS, namespace, |key, _| {
        let [snapshotter, _] = last_parts(key)?;
        snapshotters.insert(snapshotter.to_owned());
        Ok(ControlFlow::Continue(()))
    })?;
    found.extend(snapshotters.iter().map(|name| format!("snapshots on {name:?} snapshotter")));
    Ok(found)
}

/// Makes the namespace of an object that is being made, if it is new; answers
/// its labels.
pub(crate) fn ensure(change: &mut Change<'_>, name: &Id) -> Result<BTreeMap<String, String>> {
    match read(change, name)? {
        Some(labels) => Ok(labels),
        None => Ok(put(change, Namespace { name: name.clone(), labels: BTreeMap::new() })?.labels),
    }
}

/// The labels of a namespace; none if nobody has made it.
pub(crate) fn labels_of(db: &impl Read, name: &Id) -> Result<BTreeMap<String, String>> {
    Ok(read(db, name)?.unwrap_or_default())
}

fn read(db: &impl Read, name: &Id) -> Result<Option<BTreeMap<String, String>>> {
    Ok(db.get::<Record>(NAMESPACES, &Key::new(&[name])?)?.map(|record| record.labels))
}

fn put(change: &mut Change<'_>, mut namespace: Namespace) -> Result<Namespace> {
    labels::validate(&namespace.labels)?;
    labels::drop_empty(&mut namespace.labels);
    let record = Record { labels: namespace.labels.clone() };
    change.put(NAMESPACES, &Key::new(&[&namespace.name])?, &record)?;
    Ok(namespace)
}
