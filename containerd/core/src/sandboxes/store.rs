//! Sandboxes in the database.

use std::time::SystemTime;

use shim_protocol::{Error, Id, Result};

use super::{Sandbox, record::Record, update};
use crate::{
    filter::Filter,
    labels,
    metadata::{Change, Db, Key, Read, last_part, schema::SANDBOXES},
    namespaces,
};

/// The sandboxes of all namespaces. Nobody hears of changes to their records
/// (as in containerd).
#[derive(Clone)]
pub struct Sandboxes {
    db: Db,
}

impl Sandboxes {
    /// Sandboxes in `db`.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// The sandbox `id`, which may be any text.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn get(&self, namespace: &Id, id: &str) -> Result<Sandbox> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db.read(move |db| find(db, &namespace, &id)).await
    }

    /// The sandboxes of `namespace` that any of `filters` matches, by id; all
    /// without filters. Fields: `id`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(&self, namespace: &Id, filters: &[S]) -> Result<Vec<Sandbox>> {
        let filter = Filter::parse(filters)?;
        let namespace = Key::new(&[namespace])?;
        self.db
            .read(move |db| {
                let mut found = Vec::new();
                db.each(SANDBOXES, &namespace, |key, record: Record| {
                    let sandbox = record.into_sandbox(id_of(key)?);
                    if filter.matches(&sandbox) {
                        found.push(sandbox);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Records a sandbox, and its namespace too if that is new.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that id; `InvalidArgument` when an
    /// extension has no name.
    pub async fn create(&self, namespace: &Id, mut sandbox: Sandbox) -> Result<Sandbox> {
        let namespace = namespace.clone();
        self.db
            .write(move |change| {
                namespaces::ensure(change, &namespace)?;
                if change.has(SANDBOXES, &Key::new(&[&namespace, &sandbox.id])?)? {
                    let what = format!("sandbox {:?} in namespace {namespace:?}", sandbox.id);
                    return Err(Error::already_exists(what));
                }
                sandbox.created_at = SystemTime::now();
                sandbox.updated_at = sandbox.created_at;
                put(change, &namespace, &mut sandbox)?;
                Ok(sandbox)
            })
            .await
    }

    /// Changes the fields of a sandbox that `paths` names: `labels`,
    /// `labels.<key>`, `extensions`, `extensions.<name>`, `spec`, `runtime`. No
    /// path stands for all of them. `sandbox` has the new values; a label or
    /// extension it lacks is removed.
    ///
    /// # Errors
    /// - `NotFound` when there is no such sandbox;
    /// - `InvalidArgument` when a path names another field, when, with no path,
    ///   the runtime is not what it was, and as [`Self::create`].
    pub async fn update<S: AsRef<str>>(
        &self,
        namespace: &Id,
        sandbox: Sandbox,
        paths: &[S],
    ) -> Result<Sandbox> {
        let fields = update::parse(paths, &sandbox.id)?;
        let namespace = namespace.clone();
        self.db
            .write(move |change| {
                let old = find(change, &namespace, &sandbox.id)?;
                let mut new = update::apply(old, &sandbox, &fields)?;
                new.updated_at = SystemTime::now();
                put(change, &namespace, &mut new)?;
                Ok(new)
            })
            .await
    }

    /// Forgets the sandbox `id`, which may be any text.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn delete(&self, namespace: &Id, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db
            .write(move |change| {
                match change.remove(SANDBOXES, &Key::new(&[&namespace, &id])?)? {
                    true => Ok(()),
                    false => Err(missing(&namespace, &id)),
                }
            })
            .await
    }
}

fn find(db: &impl Read, namespace: &Id, id: &str) -> Result<Sandbox> {
    let key = Key::new(&[namespace, id])?;
    match db.get::<Record>(SANDBOXES, &key)? {
        Some(record) => Ok(record.into_sandbox(id_of(key.as_bytes())?)),
        None => Err(missing(namespace, id)),
    }
}

fn put(change: &mut Change<'_>, namespace: &Id, sandbox: &mut Sandbox) -> Result<()> {
    labels::drop_empty(&mut sandbox.labels);
    if sandbox.extensions.contains_key("") {
        let text = format!("sandbox {:?} has an extension without a name", sandbox.id);
        return Err(Error::invalid(text));
    }
    let key = Key::new(&[namespace, &sandbox.id])?;
    change.put(SANDBOXES, &key, &Record::from(sandbox.clone()))
}

fn id_of(key: &[u8]) -> Result<Id> {
    Id::new("sandbox id", last_part(key)?)
}

fn missing(namespace: &Id, id: &str) -> Error {
    Error::not_found(format!("sandbox {id:?} in namespace {namespace:?}"))
}
