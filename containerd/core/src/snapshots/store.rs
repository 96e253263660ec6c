//! Snapshots, as each namespace sees them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio_util::task::TaskTracker;

use super::{
    Info, Labels, Snapshotter, Usage, inherited,
    naming::{Naming, number},
    record::{self, Entry},
};
use crate::{Mount, announce::Announcer, filter::Filter, labels, leases::Resource, metadata::Db};

/// The snapshots of all namespaces, in all snapshotters. Cheap to clone; all
/// clones are one.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    db: Db,
    announcer: Announcer,
    snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
    naming: Naming,
    /// Work that must end well whatever becomes of the client that asked.
    work: TaskTracker,
}

impl Snapshots {
    /// The snapshots of these snapshotters, with their records in `db`; changes
    /// are announced by `announcer`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn open(
        db: Db,
        announcer: Announcer,
        snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
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
        let work = TaskTracker::new();
        Ok(Self(Arc::new(Inner { db, announcer, snapshotters, naming, work })))
    }

    /// The names of all snapshotters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.snapshotters.keys().map(String::as_str)
    }

    /// The snapshotter of that name, past namespaces and records.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none (as in containerd).
    pub fn get(&self, snapshotter: &str) -> Result<&Arc<dyn Snapshotter>> {
        if snapshotter.is_empty() {
            return Err(Error::invalid("no snapshotter was named"));
        }
        let missing = || Error::invalid(format!("there is no snapshotter {snapshotter:?}"));
        self.0.snapshotters.get(snapshotter).ok_or_else(missing)
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it; `InvalidArgument` when
    /// there is no such snapshotter; those of the snapshotter.
    pub async fn stat(&self, namespace: &Id, snapshotter: &str, key: &str) -> Result<Info> {
        let backend = self.get(snapshotter)?;
        let entry = self.find(namespace, snapshotter, key).await?;
        Ok(overlay(backend.stat(&entry.name).await?, entry))
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
        let mask = labels::Mask::parse(paths, "a snapshot")?;
        let backend = self.get(snapshotter)?.clone();
        let (namespace, snapshotter) = (namespace.clone(), snapshotter.to_owned());
        let (this, key, paths) = (self.clone(), key.to_owned(), paths.to_vec());
        self.own(async move {
            let change = this.0.db.write(move |change| {
                let mut entry = record::find(change, &namespace, &snapshotter, &key)?;
                entry.labels = mask.apply(entry.labels, new);
                entry.updated_at = SystemTime::now();
                record::put(change, &namespace, &mut entry)?;
                Ok(entry)
            });
            let entry = change.await?;
            let info = backend.update(&entry.name, inherited(&entry.labels), &paths).await?;
            Ok(overlay(info, entry))
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
        backend.usage(&entry.name).await
    }

    /// How an active snapshot or a view is mounted.
    ///
    /// # Errors
    /// As [`Self::stat`]; `FailedPrecondition` for a committed one.
    pub async fn mounts(&self, namespace: &Id, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        let backend = self.get(snapshotter)?;
        let entry = self.find(namespace, snapshotter, key).await?;
        backend.mounts(&entry.name).await
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
        let backend = self.get(snapshotter)?;
        let (namespace, name) = (namespace.clone(), snapshotter.to_owned());
        let entries = self.0.db.read(move |db| record::list(db, &namespace, &name)).await?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let all = backend.list(&[]).await?;
        let mut all: HashMap<_, _> =
            all.into_iter().map(|info| (info.name.clone(), info)).collect();
        let known = |entry: Entry| Some(overlay(all.remove(&entry.name)?, entry));
        let mut found: Vec<_> = entries.into_iter().filter_map(known).collect();
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
        self.own(async move { backend.cleanup().await }).await
    }

    /// Ends the work that is under way.
    pub async fn shutdown(&self) {
        self.0.work.close();
        self.0.work.wait().await;
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

/// What a lease holds that holds a snapshot.
pub(super) fn held(snapshotter: &str, key: &str) -> Resource {
    Resource { id: key.to_owned(), kind: format!("snapshots/{snapshotter}") }
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
