//! How content is recorded in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
};

use shim_protocol::{Error, Id, Result};

use super::{Digest, Info};
use crate::{
    labels,
    metadata::{
        Change, Key, Read, last_part, last_parts,
        schema::{CONTENT, NAMESPACES},
        stored,
    },
};

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(fixed64, tag = "3")]
    created_at: u64,
    #[prost(fixed64, tag = "4")]
    updated_at: u64,
}

impl From<&Info> for Record {
    fn from(info: &Info) -> Self {
        Self {
            labels: info.labels.clone(),
            size: info.size,
            created_at: stored::from_time(info.created_at),
            updated_at: stored::from_time(info.updated_at),
        }
    }
}

impl Record {
    /// What is known of the content with this digest.
    fn into_info(self, digest: Digest) -> Info {
        Info {
            digest,
            size: self.size,
            labels: self.labels,
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
        }
    }
}

/// What a namespace noted of content; none if it does not have it.
pub(super) fn get(db: &impl Read, namespace: &Id, digest: &Digest) -> Result<Option<Info>> {
    let record = db.get::<Record>(CONTENT, &key(namespace, digest)?)?;
    Ok(record.map(|record| record.into_info(digest.clone())))
}

/// What a namespace noted of content.
///
/// # Errors
/// `NotFound` when it does not have it.
pub(super) fn find(db: &impl Read, namespace: &Id, digest: &Digest) -> Result<Info> {
    get(db, namespace, digest)?.ok_or_else(|| absent(namespace, digest))
}

/// All that a namespace has, by digest.
pub(super) fn list(db: &impl Read, namespace: &Id) -> Result<Vec<Info>> {
    let mut found = Vec::new();
    db.each(CONTENT, &Key::new(&[namespace])?, |key, record: Record| {
        found.push(record.into_info(Digest::parse(last_part(key)?)?));
        Ok(())
    })?;
    Ok(found)
}

/// Writes a record.
///
/// # Errors
/// `InvalidArgument` when a label is too long; those of the disk.
pub(super) fn put(change: &mut Change<'_>, namespace: &Id, info: &mut Info) -> Result<()> {
    labels::validate(&info.labels)?;
    labels::drop_empty(&mut info.labels);
    change.put(CONTENT, &key(namespace, &info.digest)?, &Record::from(&*info))
}

/// Removes a record.
///
/// # Errors
/// `NotFound` when the namespace does not have the content.
pub(super) fn remove(change: &mut Change<'_>, namespace: &Id, digest: &Digest) -> Result<()> {
    match change.remove(CONTENT, &key(namespace, digest)?)? {
        true => Ok(()),
        false => Err(absent(namespace, digest)),
    }
}

/// The namespaces that have content, and how many bytes they noted.
pub(super) fn owners(db: &impl Read, digest: &Digest) -> Result<Vec<(Id, u64)>> {
    let mut all = Vec::new();
    db.scan(NAMESPACES, &Key::new(&[])?, |key, _| {
        all.push(Id::new("namespace", last_part(key)?)?);
        Ok(ControlFlow::Continue(()))
    })?;
    let mut having = Vec::new();
    for namespace in all {
        if let Some(info) = get(db, &namespace, digest)? {
            having.push((namespace, info.size));
        }
    }
    Ok(having)
}

/// All content that any namespace has, and how many bytes it is.
pub(super) fn all(db: &impl Read) -> Result<HashMap<Digest, u64>> {
    let mut all = HashMap::new();
    db.each(CONTENT, &Key::new(&[])?, |key, record: Record| {
        let [_, digest] = last_parts(key)?;
        all.insert(Digest::parse(digest)?, record.size);
        Ok(())
    })?;
    Ok(all)
}

/// All that each namespace has, and how many bytes it noted.
pub(super) fn every(db: &impl Read) -> Result<Vec<(Id, Digest, u64)>> {
    let mut every = Vec::new();
    db.each(CONTENT, &Key::new(&[])?, |key, record: Record| {
        let [namespace, digest] = last_parts(key)?;
        every.push((Id::new("namespace", namespace)?, Digest::parse(digest)?, record.size));
        Ok(())
    })?;
    Ok(every)
}

fn key(namespace: &Id, digest: &Digest) -> Result<Key> {
    Key::new(&[namespace, &digest.to_string()])
}

fn absent(namespace: &Id, digest: &Digest) -> Error {
    Error::not_found(format!("content {digest} in namespace {namespace:?}"))
}
