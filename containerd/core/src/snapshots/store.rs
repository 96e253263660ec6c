//! Snapshots, as each namespace sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use futures::{StreamExt, TryStreamExt, stream};
use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::task::TaskTracker;

use super::{
    Info, Labels, Snapshotter, Usage,
    claimed::Claimed,
    inherited,
    local::{self, Local},
    naming::{Naming, number},
    place::Place,
    record::{self, Entry},
};
use crate::{Mount, announce::Announcer, claims::Claims, filter::Filter, labels, metadata::Db};

/// How many snapshots another snapshotter is asked for at a time.
const ASKED: usize = 16;

/// What keeps snapshots.
#[derive(Clone)]
pub enum Backend {
    /// One of our own, whose records change together with ours.
    Local(Local),
    /// Another one, such as another process.
    Remote(Arc<dyn Snapshotter>),
}

impl Backend {
    /// It, past namespaces and records.
    pub fn snapshotter(&self) -> &dyn Snapshotter {
        match self {
            Self::Local(local) => local,
            Self::Remote(remote) => &**remote,
        }
    }
}

/// The snapshots of all namespaces, in all snapshotters. Cheap to clone; all
/// clones are one.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    db: Db,
    announcer: Announcer,
    backends: BTreeMap<String, Backend>,
    naming: Naming,
    claims: Claims<Claimed>,
    /// Snapshotters that have something which no record names.
    unswept: Mutex<BTreeSet<String>>,
    /// Work that must end well whatever becomes of the client that asked.
    work: TaskTracker,
}

impl Snapshots {
    /// The snapshots of these snapshotters, by their names, with their records in `db`; changes
    /// are announced by `announcer`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open(
        db: Db,
        announcer: Announcer,
        backends: BTreeMap<String, Backend>,
    ) -> Result<Self> {
        let last = db.read(|db| {
            let mut last = 0;
            record::each(db, |_, entry| {
                last = last.max(number(&entry.name).unwrap_or_default());
                Ok(())
            })?;
            Ok(last)
        });
        let naming = Naming::new(last.await?);
        let (claims, unswept, work) = (Claims::default(), Mutex::default(), TaskTracker::new());
        Ok(Self(Arc::new(Inner { db, announcer, backends, naming, claims, unswept, work })))
    }

    /// The names of all snapshotters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.backends.keys().map(String::as_str)
    }

    /// The snapshotter of that name.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none (as in containerd).
    pub fn get(&self, snapshotter: &str) -> Result<&Backend> {
        if snapshotter.is_empty() {
            return Err(Error::invalid("no snapshotter was named"));
        }
        let missing = || Error::invalid(format!("there is no snapshotter {snapshotter:?}"));
        self.0.backends.get(snapshotter).ok_or_else(missing)
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it; `InvalidArgument` when
    /// there is no such snapshotter; those of the snapshotter.
    pub async fn stat(&self, namespace: &Id, snapshotter: &str, key: &str) -> Result<Info> {
        match self.get(snapshotter)? {
            Backend::Remote(remote) => {
                let entry = self.find(namespace, snapshotter, key).await?;
                Ok(overlay(remote.stat(&entry.name).await?, entry))
            }
            Backend::Local(local) => {
                let (namespace, name) = (namespace.clone(), snapshotter.to_owned());
                let (key, local) = (key.to_owned(), local.clone());
                let read = self.0.db.read(move |db| {
                    let entry = record::find(db, &namespace, &name, &key)?;
                    let row = local::record::find(db, &name, &entry.name)?;
                    Ok(overlay(local.info(String::new(), row), entry))
                });
                read.await
            }
        }
    }

    /// Changes the labels that `paths` names: `labels`, or `labels.<key>`. No
    /// path stands for all labels. A label that `new` lacks is removed.
    ///
    /// # Errors
    /// As [`Self::stat`]; `InvalidArgument` when a path names something else, or
    /// a label is too long.
    pub async fn update(
        &self,
        namespace: &Id,
        snapshotter: &str,
        key: &str,
        new: Labels,
        paths: &[String],
    ) -> Result<Info> {
        let backend = self.get(snapshotter)?.clone();
        let (namespace, snapshotter) = (namespace.clone(), snapshotter.to_owned());
        let (this, key, paths) = (self.clone(), key.to_owned(), paths.to_vec());
        self.own(async move {
            // Another snapshotter is told first: if it refuses, nothing is recorded.
            let told = match backend {
                Backend::Local(local) => Told::Later(local),
                Backend::Remote(remote) => {
                    let mut entry = this.find(&namespace, &snapshotter, &key).await?;
                    relabel(&mut entry, new.clone(), &paths)?;
                    let told = inherited(&entry.labels);
                    Told::Already(remote.update(&entry.name, told, &paths).await?)
                }
            };
            let change = this.0.db.write(move |change| {
                let mut entry = record::find(change, &namespace, &snapshotter, &key)?;
                relabel(&mut entry, new, &paths)?;
                record::put(change, &namespace, &mut entry)?;
                let info = match told {
                    Told::Already(info) => info,
                    Told::Later(local) => {
                        let (name, told) = (&entry.name, inherited(&entry.labels));
                        let row = local::record::update(change, &snapshotter, name, told, &paths)?;
                        local.info(String::new(), row)
                    }
                };
                Ok(overlay(info, entry))
            });
            change.await
        })
        .await
    }

    /// How much disk a snapshot takes.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub async fn usage(&self, namespace: &Id, snapshotter: &str, key: &str) -> Result<Usage> {
        let backend = self.get(snapshotter)?;
        let entry = self.find(namespace, snapshotter, key).await?;
        backend.snapshotter().usage(&entry.name).await
    }

    /// How an active snapshot or a view is mounted.
    ///
    /// # Errors
    /// As [`Self::stat`]; `FailedPrecondition` for a committed one.
    pub async fn mounts(&self, namespace: &Id, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        let backend = self.get(snapshotter)?;
        let entry = self.find(namespace, snapshotter, key).await?;
        backend.snapshotter().mounts(&entry.name).await
    }

    /// The snapshots that any of `filters` matches, by key; all without filters.
    /// Fields: `kind`, `name`, `parent`, `labels.<key>`.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed, or there is no such
    /// snapshotter; those of the snapshotter.
    pub async fn list<S: AsRef<str>>(
        &self,
        namespace: &Id,
        snapshotter: &str,
        filters: &[S],
    ) -> Result<Vec<Info>> {
        let filter = Filter::parse(filters)?;
        let (namespace, name) = (namespace.clone(), snapshotter.to_owned());
        let mut found = match self.get(snapshotter)? {
            Backend::Local(local) => {
                let local = local.clone();
                let read = self.0.db.read(move |db| {
                    let mut found = Vec::new();
                    for entry in record::list(db, &namespace, &name)? {
                        if let Some(row) = local::record::get(db, &name, &entry.name)? {
                            found.push(overlay(local.info(String::new(), row), entry));
                        }
                    }
                    Ok(found)
                });
                read.await?
            }
            Backend::Remote(remote) => {
                let read = self.0.db.read(move |db| record::list(db, &namespace, &name));
                join(read.await?, remote).await?
            }
        };
        found.retain(|info| filter.matches(info));
        Ok(found)
    }

    /// Frees what removed snapshots have left on disk.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such snapshotter; those of the
    /// snapshotter.
    pub async fn cleanup(&self, snapshotter: &str) -> Result<()> {
        let backend = self.get(snapshotter)?.clone();
        self.own(async move { backend.snapshotter().cleanup().await }).await
    }

    /// Ends the work that is under way.
    pub async fn shutdown(&self) {
        self.0.work.close();
        self.0.work.wait().await;
        for backend in self.0.backends.values() {
            if let Backend::Local(local) = backend {
                local.shutdown().await;
            }
        }
    }

    /// All snapshotters by name.
    pub(super) fn backends(&self) -> &BTreeMap<String, Backend> {
        &self.0.backends
    }

    /// What a namespace noted of a snapshot.
    pub(super) async fn find(&self, namespace: &Id, snapshotter: &str, key: &str) -> Result<Entry> {
        let (namespace, snapshotter) = (namespace.clone(), snapshotter.to_owned());
        let key = key.to_owned();
        self.0.db.read(move |db| record::find(db, &namespace, &snapshotter, &key)).await
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(super) fn announcer(&self) -> &Announcer {
        &self.0.announcer
    }

    pub(super) fn naming(&self) -> &Naming {
        &self.0.naming
    }

    pub(super) fn claims(&self) -> &Claims<Claimed> {
        &self.0.claims
    }

    /// Notes that a snapshotter may have something which no record names.
    pub(super) fn set_unswept(&self, snapshotter: &str) {
        let mut unswept = self.0.unswept.lock().unwrap_or_else(PoisonError::into_inner);
        unswept.insert(snapshotter.to_owned());
    }

    /// The snapshotters that may have something which no record names, since
    /// this was last asked.
    pub fn take_unswept(&self) -> BTreeSet<String> {
        // What is inside is whole after each insertion.
        let mut unswept = self.0.unswept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = std::mem::take(&mut *unswept);
        for (name, backend) in &self.0.backends {
            if let Backend::Local(local) = backend
                && local.take_unswept()
            {
                all.insert(name.clone());
            }
        }
        all
    }

    /// Puts what is there under the lease; the answer says that it is there. No
    /// answer if it is gone by now.
    pub(super) async fn hold_existing(&self, place: &Place, key: &str) -> Result<Option<Error>> {
        let taken = place.taken(key);
        if place.lease.is_none() {
            return Ok(Some(taken));
        }
        let (place, key) = (place.clone(), key.to_owned());
        let held = self.0.db.write(move |change| {
            let is_there =
                record::get(change, &place.namespace, &place.snapshotter, &key)?.is_some();
            if is_there {
                place.hold(change, &key)?;
            }
            Ok(is_there)
        });
        Ok(held.await?.then_some(taken))
    }

    /// Runs work to its end, even if the caller goes away.
    pub(super) async fn own<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.0
            .work
            .spawn(work)
            .await
            .unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "change snapshots", e)))
    }
}

/// Whether a snapshotter knows of new labels.
enum Told {
    /// It does; this is what it made of them.
    Already(Info),
    /// One of our own: it is told together with the record.
    Later(Local),
}

/// Changes the labels of a record that `paths` names.
fn relabel(entry: &mut Entry, new: Labels, paths: &[String]) -> Result<()> {
    let old = std::mem::take(&mut entry.labels);
    entry.labels = labels::Mask::parse(paths, "a snapshot")?.apply(old, new);
    entry.updated_at = SystemTime::now();
    labels::validate(&entry.labels)
}

/// What a snapshotter knows, in the words of the namespace.
fn overlay(mut info: Info, entry: Entry) -> Info {
    info.name = entry.key;
    info.parent = entry.parent;
    info.labels.extend(entry.labels);
    info.created_at = entry.created_at;
    info.updated_at = entry.updated_at;
    info
}

/// What a snapshotter knows of some snapshots; those that it lacks are left out.
async fn join(entries: Vec<Entry>, remote: &Arc<dyn Snapshotter>) -> Result<Vec<Info>> {
    let known = entries.into_iter().map(|entry| async move {
        match remote.stat(&entry.name).await {
            Ok(info) => Ok(Some(overlay(info, entry))),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    });
    let known = stream::iter(known).buffered(ASKED);
    known.try_filter_map(|info| std::future::ready(Ok(info))).try_collect().await
}
