//! Containers in the database.

use std::time::SystemTime;

use shim_protocol::{Error, Id, Result};

use super::{Container, record::Record, update};
use crate::{
    announce::{Announcer, ObjectEvent},
    filter::Filter,
    labels,
    metadata::{Change, Db, Key, Read, last_part, schema::CONTAINERS},
    namespaces,
};

/// The containers of all namespaces.
#[derive(Clone)]
pub struct Containers {
    db: Db,
    announcer: Announcer,
}

impl Containers {
    /// Containers in `db`; changes are announced by `announcer`.
    pub fn new(db: Db, announcer: Announcer) -> Self {
        Self { db, announcer }
    }

    /// The container `id`, which may be any text.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn get(&self, namespace: &Id, id: &str) -> Result<Container> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.db.read(move |db| find(db, &namespace, &id)).await
    }

    /// The containers of `namespace` that any of `filters` matches, by id; all
    /// without filters. Fields: `id`, `image`, `runtime.name`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn list<S: AsRef<str>>(
        &self,
        namespace: &Id,
        filters: &[S],
    ) -> Result<Vec<Container>> {
        let filter = Filter::parse(filters)?;
        let namespace = Key::new(&[namespace])?;
        self.db
            .read(move |db| {
                let mut found = Vec::new();
                db.each(CONTAINERS, &namespace, |key, record: Record| {
                    let container = record.into_container(id_of(key)?);
                    if filter.matches(&container) {
                        found.push(container);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Records a container, and its namespace too if that is new. A runtime
    /// or snapshotter that it does not name is taken from the labels of the
    /// namespace ([`namespaces::DEFAULT_RUNTIME_LABEL`],
    /// [`namespaces::DEFAULT_SNAPSHOTTER_LABEL`]).
    ///
    /// # Errors
    /// - `AlreadyExists` when there is one of that id;
    /// - `InvalidArgument` when it has no runtime, no spec, a snapshot without
    ///   a snapshotter, a label that is too long, or an extension without a name.
    pub async fn create(&self, namespace: &Id, container: Container) -> Result<Container> {
        let room = namespace.clone();
        self.announcer
            .write(&self.db, namespace, move |change| {
                let created = create(change, &room, container)?;
                let event = ObjectEvent::ContainerCreate {
                    id: created.id.clone(),
                    image: created.image.clone(),
                    runtime: created.runtime.clone(),
                };
                Ok((created, event))
            })
            .await
    }

    /// Changes the fields of a container that `paths` names: `labels`,
    /// `labels.<key>`, `extensions`, `extensions.<name>`, `spec`, `image`,
    /// `snapshot_key`. No path stands for all of them. `container` has the new
    /// values; a label or extension it lacks is removed.
    ///
    /// # Errors
    /// - `NotFound` when there is no such container;
    /// - `InvalidArgument` when a path names another field, when, with no path,
    ///   runtime or snapshotter are not what they were, and as [`Self::create`].
    pub async fn update<S: AsRef<str>>(
        &self,
        namespace: &Id,
        container: Container,
        paths: &[S],
    ) -> Result<Container> {
        let fields = update::parse(paths, &container.id)?;
        let room = namespace.clone();
        self.announcer
            .write(&self.db, namespace, move |change| {
                let old = find(change, &room, &container.id)?;
                let mut new = update::apply(old, &container, &fields)?;
                new.updated_at = SystemTime::now();
                put(change, &room, &mut new)?;
                let event = ObjectEvent::ContainerUpdate {
                    id: new.id.clone(),
                    image: new.image.clone(),
                    labels: new.labels.clone(),
                    snapshot_key: new.snapshot_key.clone(),
                };
                Ok((new, event))
            })
            .await
    }

    /// Forgets the container `id`, which may be any text. Whether it has a
    /// task is the caller's concern.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn delete(&self, namespace: &Id, id: &str) -> Result<()> {
        let (room, id) = (namespace.clone(), id.to_owned());
        self.announcer
            .write(&self.db, namespace, move |change| {
                let key = Key::new(&[&room, &id])?;
                if !change.remove(CONTAINERS, &key)? {
                    return Err(missing(&room, &id));
                }
                let id = Id::new("container id", &id)?;
                Ok(((), ObjectEvent::ContainerDelete { id }))
            })
            .await
    }
}

fn create(change: &mut Change<'_>, namespace: &Id, mut new: Container) -> Result<Container> {
    let labels = namespaces::ensure(change, namespace)?;
    let default = |label| labels.get(label).cloned().unwrap_or_default();
    if new.runtime.name.is_empty() {
        new.runtime.name = default(namespaces::DEFAULT_RUNTIME_LABEL);
    }
    if new.snapshotter.is_empty() && !new.snapshot_key.is_empty() {
        new.snapshotter = default(namespaces::DEFAULT_SNAPSHOTTER_LABEL);
    }
    if change.has(CONTAINERS, &Key::new(&[namespace, &new.id])?)? {
        let what = format!("container {:?} in namespace {namespace:?}", new.id);
        return Err(Error::already_exists(what));
    }
    new.created_at = SystemTime::now();
    new.updated_at = new.created_at;
    put(change, namespace, &mut new)?;
    Ok(new)
}

/// The rules for every record (containerd, `core/metadata/containers.go`).
fn validate(container: &Container) -> Result<()> {
    let refuse = |why| Err(Error::invalid(format!("container {:?} {why}", container.id)));
    labels::validate(&container.labels)?;
    if container.runtime.name.is_empty() {
        return refuse("needs the name of a runtime");
    }
    if container.extensions.contains_key("") {
        return refuse("has an extension without a name");
    }
    if container.spec.is_none() {
        return refuse("needs a spec");
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return refuse("has a snapshot key, and so needs a snapshotter");
    }
    Ok(())
}

fn find(db: &impl Read, namespace: &Id, id: &str) -> Result<Container> {
    let key = Key::new(&[namespace, id])?;
    match db.get::<Record>(CONTAINERS, &key)? {
        Some(record) => Ok(record.into_container(id_of(key.as_bytes())?)),
        None => Err(missing(namespace, id)),
    }
}

fn put(change: &mut Change<'_>, namespace: &Id, container: &mut Container) -> Result<()> {
    validate(container)?;
    labels::drop_empty(&mut container.labels);
    let key = Key::new(&[namespace, &container.id])?;
    change.put(CONTAINERS, &key, &Record::from(container.clone()))
}

fn id_of(key: &[u8]) -> Result<Id> {
    Id::new("container id", last_part(key)?)
}

fn missing(namespace: &Id, id: &str) -> Error {
    Error::not_found(format!("container {id:?} in namespace {namespace:?}"))
}
