//! Makes snapshots: active ones, and views.

use std::time::SystemTime;

use shim_protocol::{Error, ErrorKind, Id, Result};

use super::{
    Backend, Kind, Labels, Snapshots, TARGET_LABEL, inherited,
    local::{self, Row},
    place::Place,
    record::{self, Entry},
};
use crate::{
    Mount,
    announce::ObjectEvent,
    labels,
    metadata::{Change, Read},
    namespaces,
};

/// A snapshot that is to be made.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// What it is called.
    pub key: String,
    /// Name of a committed one; may be empty.
    pub parent: String,
    /// Labels; see [`TARGET_LABEL`].
    pub labels: Labels,
}

/// What is there before a snapshot is made.
enum Ground {
    /// Nothing but the parent; this is what the snapshotter calls it.
    Parent(String),
    /// The one that was to be made.
    Taken(String),
}

impl Snapshots {
    /// Makes a snapshot that can be written to, and says how it is mounted.
    /// `lease` holds it from the beginning, and what was there before, too.
    ///
    /// # Errors
    /// - `AlreadyExists` when there is one with that key, or the one that
    ///   [`TARGET_LABEL`] names is there already;
    /// - `NotFound` when there is no such parent, or no such lease;
    /// - `InvalidArgument` when the parent is not committed, a label is too
    ///   long, or there is no such snapshotter; those of the snapshotter.
    pub async fn prepare(
        &self,
        namespace: &Id,
        snapshotter: &str,
        new: New,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        self.create(namespace, snapshotter, Kind::Active, new, lease).await
    }

    /// Makes a snapshot that is only read, and says how it is mounted.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn view(
        &self,
        namespace: &Id,
        snapshotter: &str,
        new: New,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        self.create(namespace, snapshotter, Kind::View, new, lease).await
    }

    async fn create(
        &self,
        namespace: &Id,
        snapshotter: &str,
        kind: Kind,
        new: New,
        lease: Option<&str>,
    ) -> Result<Vec<Mount>> {
        labels::validate(&new.labels)?;
        self.get(snapshotter)?;
        let place = Place::new(namespace, snapshotter, lease);
        let this = self.clone();
        self.own(async move { this.create_in(place, kind, new).await }).await
    }

    async fn create_in(&self, place: Place, kind: Kind, new: New) -> Result<Vec<Mount>> {
        let target = new.labels.get(TARGET_LABEL).map(String::as_str).unwrap_or_default();
        let _claims = match self.get(&place.snapshotter)? {
            Backend::Remote(_) => self.claim_keys(&place.snapshotter, vec![&new.key, target]).await,
            Backend::Local(_) => Vec::new(),
        };
        loop {
            let (at, wanted) = (place.clone(), new.clone());
            match self.db().read(move |db| ground(db, &at, &wanted)).await? {
                Ground::Parent(parent) => {
                    return self.create_upon(place, kind, new, parent).await;
                }
                Ground::Taken(key) => {
                    if let Some(taken) = self.hold_existing(&place, &key).await? {
                        return Err(taken);
                    }
                }
            }
        }
    }

    async fn create_upon(
        &self,
        place: Place,
        kind: Kind,
        new: New,
        parent: String,
    ) -> Result<Vec<Mount>> {
        match self.get(&place.snapshotter)?.clone() {
            Backend::Local(local) => {
                let made = local.make(kind, &parent, inherited(&new.labels)).await?;
                let name = self.naming().name(&place.namespace, &new.key);
                let (entry, row) = (entry(&place.snapshotter, name, new), made.row(&parent));
                let recorded = self.record(place, kind, entry, parent, Some(row)).await;
                local.settle(made, recorded).await
            }
            Backend::Remote(remote) => self.create_remote(&*remote, place, kind, new, parent).await,
        }
    }

    /// Records a snapshot that the snapshotter has made; of one of our own,
    /// with what it noted.
    pub(super) async fn record(
        &self,
        place: Place,
        kind: Kind,
        entry: Entry,
        parent: String,
        row: Option<Row>,
    ) -> Result<()> {
        let namespace = place.namespace.clone();
        let change = move |change: &mut Change<'_>| {
            let (taken, name) = (place.taken(&entry.key), entry.name.clone());
            let event = ObjectEvent::SnapshotPrepare {
                snapshotter: entry.snapshotter.clone(),
                key: entry.key.clone(),
                parent: entry.parent.clone(),
            };
            if !record_new(change, &place, entry, &parent)? {
                return Ok((Err(taken), None));
            }
            if let Some(row) = row {
                local::record::create(change, &place.snapshotter, &name, &row)?;
            }
            Ok((Ok(()), (kind == Kind::Active).then_some(event)))
        };
        self.announcer().write_some(self.db(), &namespace, change).await?
    }
}

/// The record of a snapshot that was made now.
pub(super) fn entry(snapshotter: &str, name: String, new: New) -> Entry {
    let now = SystemTime::now();
    Entry {
        snapshotter: snapshotter.to_owned(),
        key: new.key,
        parent: new.parent,
        name,
        becoming: String::new(),
        labels: new.labels,
        created_at: now,
        updated_at: now,
    }
}

/// What is there in `place` before a snapshot is made.
fn ground(db: &impl Read, place: &Place, new: &New) -> Result<Ground> {
    let Place { namespace, snapshotter, .. } = place;
    let target = new.labels.get(TARGET_LABEL).filter(|target| !target.is_empty());
    for key in target.into_iter().chain([&new.key]) {
        if record::get(db, namespace, snapshotter, key)?.is_some() {
            return Ok(Ground::Taken(key.clone()));
        }
    }
    parent_name(db, place, &new.parent).map(Ground::Parent)
}

/// What the snapshotter calls a parent; nothing when there is to be none.
pub(super) fn parent_name(db: &impl Read, place: &Place, parent: &str) -> Result<String> {
    match parent {
        "" => Ok(String::new()),
        parent => Ok(record::find(db, &place.namespace, &place.snapshotter, parent)?.name),
    }
}

/// Makes sure that the snapshotter still calls a parent `name`.
///
/// # Errors
/// `NotFound` when it is gone; `Aborted` when there is another one of its key.
pub(super) fn same_parent(db: &impl Read, place: &Place, parent: &str, name: &str) -> Result<()> {
    match parent_name(db, place, parent)? == name {
        true => Ok(()),
        false => {
            let text = format!("snapshot {parent:?} was replaced meanwhile");
            Err(Error::new(ErrorKind::Aborted, text))
        }
    }
}

/// Records a snapshot, unless there is one of that key by now. It is held in
/// either case.
fn record_new(
    change: &mut Change<'_>,
    place: &Place,
    mut entry: Entry,
    parent: &str,
) -> Result<bool> {
    let Place { namespace, snapshotter, .. } = place;
    place.hold(change, &entry.key)?;
    if record::get(change, namespace, snapshotter, &entry.key)?.is_some() {
        return Ok(false);
    }
    same_parent(change, place, &entry.parent, parent)?;
    namespaces::ensure(change, namespace)?;
    record::put(change, namespace, &mut entry)?;
    Ok(true)
}
