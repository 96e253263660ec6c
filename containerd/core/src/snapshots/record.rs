//! Snapshots as namespaces see them, in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

use shim_protocol::{Error, Id, Result};

use crate::{
    labels,
    metadata::{Change, Key, Read, last_part, last_parts, schema::SNAPSHOTS, stored},
};

/// A snapshot of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which snapshotter has it.
    pub(crate) snapshotter: String,
    /// What the namespace calls it.
    pub(crate) key: String,
    /// Key of another one of the same namespace and snapshotter; may be empty.
    pub(crate) parent: String,
    /// What the snapshotter calls it.
    pub(crate) name: String,
    /// What another process may call it by now, as a commit began that was not
    /// recorded; else empty.
    pub(crate) becoming: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created_at: SystemTime,
    pub(crate) updated_at: SystemTime,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "2")]
    parent: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(fixed64, tag = "4")]
    created_at: u64,
    #[prost(fixed64, tag = "5")]
    updated_at: u64,
    #[prost(string, tag = "6")]
    becoming: String,
}

impl From<&Entry> for Record {
    fn from(entry: &Entry) -> Self {
        Self {
            labels: entry.labels.clone(),
            parent: entry.parent.clone(),
            name: entry.name.clone(),
            created_at: stored::from_time(entry.created_at),
            updated_at: stored::from_time(entry.updated_at),
            becoming: entry.becoming.clone(),
        }
    }
}

impl Record {
    fn into_entry(self, snapshotter: &str, key: &str) -> Entry {
        Entry {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
            parent: self.parent,
            name: self.name,
            becoming: self.becoming,
            labels: self.labels,
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
        }
    }
}

/// The snapshot that a namespace calls `key`, if there is one.
pub(crate) fn get(
    db: &impl Read,
    namespace: &Id,
    snapshotter: &str,
    key: &str,
) -> Result<Option<Entry>> {
    let record = db.get::<Record>(SNAPSHOTS, &Key::new(&[namespace, snapshotter, key])?)?;
    Ok(record.map(|record| record.into_entry(snapshotter, key)))
}

/// The snapshot that a namespace calls `key`.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) fn find(db: &impl Read, namespace: &Id, snapshotter: &str, key: &str) -> Result<Entry> {
    get(db, namespace, snapshotter, key)?.ok_or_else(|| absent(namespace, key))
}

/// The snapshots of a namespace that one snapshotter has, by key.
pub(crate) fn list(db: &impl Read, namespace: &Id, snapshotter: &str) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    db.each(SNAPSHOTS, &Key::new(&[namespace, snapshotter])?, |key, record: Record| {
        found.push(record.into_entry(snapshotter, last_part(key)?));
        Ok(())
    })?;
    Ok(found)
}

/// Calls `visit` with each snapshot of each namespace.
///
/// # Errors
/// Those of `visit` and of the disk.
pub(crate) fn each(db: &impl Read, mut visit: impl FnMut(&str, Entry) -> Result<()>) -> Result<()> {
    db.each(SNAPSHOTS, &Key::new(&[])?, |key, record: Record| {
        let [namespace, snapshotter, key] = last_parts(key)?;
        visit(namespace, record.into_entry(snapshotter, key))
    })
}

/// What `snapshotter` calls the snapshots that any namespace has, or may call
/// them.
pub(crate) fn names(db: &impl Read, snapshotter: &str) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    each(db, |_, entry| {
        if entry.snapshotter == snapshotter {
            names.extend([entry.name, entry.becoming]);
        }
        Ok(())
    })?;
    names.remove("");
    Ok(names)
}

/// Whether `name` is one of the [`names`].
pub(super) fn is_named(db: &impl Read, snapshotter: &str, name: &str) -> Result<bool> {
    let mut found = false;
    each(db, |_, entry| {
        let is_it = entry.name == name || entry.becoming == name;
        found |= is_it && entry.snapshotter == snapshotter;
        Ok(())
    })?;
    Ok(found)
}

/// Whether another snapshot builds upon this one.
pub(crate) fn is_parent(
    db: &impl Read,
    namespace: &Id,
    snapshotter: &str,
    key: &str,
) -> Result<bool> {
    let mut found = false;
    db.each(SNAPSHOTS, &Key::new(&[namespace, snapshotter])?, |_, record: Record| {
        found |= record.parent == key;
        Ok(())
    })?;
    Ok(found)
}

/// Writes a record.
///
/// # Errors
/// `InvalidArgument` when a label is too long, or there is no key; those of the
/// disk.
pub(crate) fn put(change: &mut Change<'_>, namespace: &Id, entry: &mut Entry) -> Result<()> {
    if entry.key.is_empty() {
        return Err(Error::invalid("a snapshot must have a key"));
    }
    labels::validate(&entry.labels)?;
    labels::drop_empty(&mut entry.labels);
    let key = Key::new(&[namespace, &entry.snapshotter, &entry.key])?;
    change.put(SNAPSHOTS, &key, &Record::from(&*entry))
}

/// Removes a record. Whether others build upon it is the caller's concern, and
/// so are its leases, and what the snapshotter has under its name.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) fn remove(
    change: &mut Change<'_>,
    namespace: &Id,
    snapshotter: &str,
    key: &str,
) -> Result<()> {
    match change.remove(SNAPSHOTS, &Key::new(&[namespace, snapshotter, key])?)? {
        true => Ok(()),
        false => Err(absent(namespace, key)),
    }
}

/// The error for a key that a namespace does not have.
pub(super) fn absent(namespace: &Id, key: &str) -> Error {
    Error::not_found(format!("snapshot {key:?} in namespace {namespace:?}"))
}
