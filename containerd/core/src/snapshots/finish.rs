//! Commits snapshots, and removes them.

use std::{collections::BTreeSet, time::SystemTime};

use shim_protocol::{Error, ErrorKind, Id, Result};

use super::{
    Info, Labels, Snapshots, Snapshotter, inherited,
    record::{self, Entry, absent},
    store::held,
};
use crate::{
    announce::ObjectEvent,
    labels, leases,
    metadata::{Change, Read},
};

/// A snapshot that is to be committed.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// What it is called from then on.
    pub name: String,
    /// What it is called now.
    pub key: String,
    /// The parent that it gets, if it was made without; else empty, or the one
    /// that it has.
    pub parent: String,
    /// Labels from then on.
    pub labels: Labels,
}

/// What is to be changed where, by whom.
#[derive(Clone)]
struct Place {
    namespace: Id,
    snapshotter: String,
    lease: Option<String>,
}

impl Snapshots {
    /// Fixes an active snapshot under a name. `lease` then holds the name in
    /// place of the key.
    ///
    /// # Errors
    /// - `AlreadyExists` when there is one of that name; `NotFound` when there
    ///   is none with that key, no such parent or no such lease;
    /// - `FailedPrecondition` when it is not active, or the parent is not
    ///   committed;
    /// - `InvalidArgument` when it has another parent, a label is too long, or
    ///   there is no such snapshotter;
    /// - `Unimplemented` when the snapshotter cannot give it a parent now.
    pub async fn commit(
        &self,
        namespace: &Id,
        snapshotter: &str,
        commit: Commit,
        lease: Option<&str>,
    ) -> Result<()> {
        labels::validate(&commit.labels)?;
        let backend = self.get(snapshotter)?.clone();
        let place = place(namespace, snapshotter, lease);
        let this = self.clone();
        self.own(async move {
            let (at, wanted) = (place.clone(), commit.clone());
            let (old, parent) = this.db().read(move |db| before(db, &at, &wanted)).await?;
            let name = this.naming().name(&place.namespace, &commit.name);
            let told = inherited(&commit.labels);
            let given = if old.parent.is_empty() { parent.as_str() } else { "" };
            backend.commit(name.as_str(), &old.name, given, told).await?;
            this.record_commit(place, commit, old, name.as_str().to_owned()).await
        })
        .await
    }

    async fn record_commit(
        &self,
        place: Place,
        commit: Commit,
        old: Entry,
        name: String,
    ) -> Result<()> {
        let namespace = place.namespace.clone();
        let change = move |change: &mut Change<'_>| {
            let Place { namespace, snapshotter, lease } = &place;
            record::remove(change, namespace, snapshotter, &commit.key)?;
            if record::get(change, namespace, snapshotter, &commit.name)?.is_some() {
                return Err(exists(namespace, &commit.name));
            }
            if let Some(lease) = lease {
                leases::hold(change, namespace, lease, &held(snapshotter, &commit.name))?;
                leases::let_go(change, namespace, lease, &held(snapshotter, &commit.key))?;
            }
            let now = SystemTime::now();
            let mut new = Entry {
                snapshotter: snapshotter.clone(),
                key: commit.name.clone(),
                parent: if old.parent.is_empty() { commit.parent } else { old.parent },
                name,
                labels: commit.labels,
                created_at: now,
                updated_at: now,
            };
            record::put(change, namespace, &mut new)?;
            let snapshotter = snapshotter.clone();
            let event =
                ObjectEvent::SnapshotCommit { snapshotter, key: commit.key, name: commit.name };
            Ok(((), event))
        };
        self.announcer().write(self.db(), &namespace, change).await
    }

    /// Removes a snapshot, and lets go of it in `lease`.
    ///
    /// # Errors
    /// `NotFound` when the namespace does not have it; `FailedPrecondition`
    /// when others build upon it; `InvalidArgument` when there is no such
    /// snapshotter.
    pub async fn remove(
        &self,
        namespace: &Id,
        snapshotter: &str,
        key: &str,
        lease: Option<&str>,
    ) -> Result<()> {
        let backend = self.get(snapshotter)?.clone();
        let place = place(namespace, snapshotter, lease);
        let (this, key) = (self.clone(), key.to_owned());
        self.own(async move {
            let name = this.remove_record(place, key).await?;
            // What is left is removed with other garbage.
            if let Err(e) = backend.remove(&name).await {
                tracing::warn!(name, error = %e.report(), "snapshot was left behind");
            }
            Ok(())
        })
        .await
    }

    async fn remove_record(&self, place: Place, key: String) -> Result<String> {
        let namespace = place.namespace.clone();
        let change = move |change: &mut Change<'_>| {
            let Place { namespace, snapshotter, lease } = place;
            let entry = record::find(change, &namespace, &snapshotter, &key)?;
            if record::is_parent(change, &namespace, &snapshotter, &key)? {
                return Err(Error::precondition(format!("others build upon snapshot {key:?}")));
            }
            record::remove(change, &namespace, &snapshotter, &key)?;
            if let Some(lease) = lease {
                leases::let_go(change, &namespace, &lease, &held(&snapshotter, &key))?;
            }
            Ok((entry.name, ObjectEvent::SnapshotRemove { snapshotter, key }))
        };
        self.announcer().write(self.db(), &namespace, change).await
    }

    /// Removes from a snapshotter what no record names, and frees what that
    /// leaves on disk. For the collector of garbage, after it has removed
    /// records.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such snapshotter; those of the
    /// snapshotter.
    pub async fn sweep(&self, snapshotter: &str) -> Result<()> {
        let backend = self.get(snapshotter)?.clone();
        let (this, snapshotter) = (self.clone(), snapshotter.to_owned());
        self.own(async move {
            // In this order: whoever makes one has its name pending before the
            // snapshotter knows it, and until it is recorded.
            let all = backend.list(&[]).await?;
            let pending = this.naming().pending();
            let named = this.db().read(move |db| record::names(db, &snapshotter)).await?;
            let is_left =
                |info: &Info| !pending.contains(&info.name) && !named.contains(&info.name);
            remove_all(&*backend, all.into_iter().filter(is_left).collect()).await?;
            match backend.cleanup().await {
                Err(e) if e.kind() != ErrorKind::Unimplemented => Err(e),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// Removes snapshots, children before their parents.
async fn remove_all(backend: &dyn Snapshotter, mut left: Vec<Info>) -> Result<()> {
    while !left.is_empty() {
        let parents: BTreeSet<String> = left.iter().map(|info| info.parent.clone()).collect();
        let (later, now): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|info| parents.contains(&info.name));
        if now.is_empty() {
            return Err(Error::new(ErrorKind::DataLoss, "snapshots are parents of each other"));
        }
        for info in now {
            match backend.remove(&info.name).await {
                Err(e) if e.kind() == ErrorKind::FailedPrecondition => {
                    let name = info.name;
                    tracing::warn!(name, error = %e.report(), "snapshot was left behind");
                }
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        left = later;
    }
    Ok(())
}

/// The snapshot that is to be committed, and what the snapshotter calls its
/// parent.
fn before(db: &impl Read, place: &Place, commit: &Commit) -> Result<(Entry, String)> {
    let Place { namespace, snapshotter, .. } = place;
    if record::get(db, namespace, snapshotter, &commit.name)?.is_some() {
        return Err(exists(namespace, &commit.name));
    }
    let old = record::get(db, namespace, snapshotter, &commit.key)?
        .ok_or_else(|| absent(namespace, &commit.key))?;
    if !old.parent.is_empty() && !commit.parent.is_empty() && old.parent != commit.parent {
        return Err(Error::invalid(format!("snapshot {:?} has another parent", commit.key)));
    }
    let parent = if old.parent.is_empty() { &commit.parent } else { &old.parent };
    let parent = match parent.as_str() {
        "" => String::new(),
        parent => record::find(db, namespace, snapshotter, parent)?.name,
    };
    Ok((old, parent))
}

fn place(namespace: &Id, snapshotter: &str, lease: Option<&str>) -> Place {
    Place {
        namespace: namespace.clone(),
        snapshotter: snapshotter.to_owned(),
        lease: lease.map(str::to_owned),
    }
}

fn exists(namespace: &Id, name: &str) -> Error {
    Error::already_exists(format!("snapshot {name:?} in namespace {namespace:?}"))
}
