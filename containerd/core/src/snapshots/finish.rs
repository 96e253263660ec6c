//! Commits snapshots, and removes them.

use std::time::SystemTime;

use shim_protocol::{Context, Error, Id, Result};

use super::{
    Backend, Kind, Labels, Snapshots, Snapshotter, Usage,
    create::same_parent,
    inherited,
    local::{self, Fix, Row},
    place::Place,
    record::{self, Entry, absent},
};
use crate::{
    announce::ObjectEvent,
    labels,
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

/// What is there before a commit.
enum Ground {
    /// The snapshot, and what the snapshotter calls the parent that it gets.
    Active(Entry, String),
    /// One of the new name.
    Taken,
}

impl Snapshots {
    /// Fixes an active snapshot under a name. `lease` then holds the name in
    /// place of the key.
    ///
    /// # Errors
    /// - `AlreadyExists` when there is one of that name; `NotFound` when there
    ///   is none with that key, no such parent or no such lease;
    /// - `FailedPrecondition` when it is not active, it is being committed, or
    ///   the parent is not committed;
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
        let place = Place::new(namespace, snapshotter, lease);
        let this = self.clone();
        self.own(async move {
            let keys = vec![commit.key.as_str(), &commit.name, &commit.parent];
            let _claims = match &backend {
                Backend::Remote(_) => this.claim_keys(&place.snapshotter, keys).await,
                Backend::Local(_) => Vec::new(),
            };
            loop {
                let (at, wanted) = (place.clone(), commit.clone());
                match this.db().read(move |db| ground(db, &at, &wanted)).await? {
                    Ground::Active(old, parent) => {
                        return this.commit_to(&backend, place, commit, old, parent).await;
                    }
                    Ground::Taken => {
                        if let Some(taken) = this.hold_existing(&place, &commit.name).await? {
                            return Err(taken);
                        }
                    }
                }
            }
        })
        .await
    }

    pub(super) async fn commit_to(
        &self,
        backend: &Backend,
        place: Place,
        commit: Commit,
        old: Entry,
        parent: String,
    ) -> Result<()> {
        match backend {
            Backend::Local(local) => {
                let name = self.naming().name(&place.namespace, &commit.name);
                let (key, labels) = (old.name.clone(), inherited(&commit.labels));
                let fix = Fix { name, key, parent, labels, usage: Usage::default() };
                let fixed = local.fix(fix).await.context("commit snapshot", &commit.key)?;
                let fix = fixed.fix().clone();
                let (name, parent) = (fix.name.clone(), fix.parent.clone());
                let recorded =
                    self.record_commit(place, commit, old, parent, name, Some(fix)).await;
                local.settle_fix(fixed, recorded).await
            }
            Backend::Remote(remote) => {
                self.commit_remote(&**remote, place, commit, old, parent).await
            }
        }
    }

    /// Records a commit; of one of our own, with what it noted.
    pub(super) async fn record_commit(
        &self,
        place: Place,
        commit: Commit,
        old: Entry,
        parent: String,
        name: String,
        fix: Option<Fix>,
    ) -> Result<()> {
        let namespace = place.namespace.clone();
        let change = move |change: &mut Change<'_>| {
            let Place { namespace, snapshotter, .. } = &place;
            if record::find(change, namespace, snapshotter, &commit.key)?.name != old.name {
                return Err(absent(namespace, &commit.key));
            }
            match fix.is_some() {
                true => place.hold(change, &commit.name)?,
                // Too late to refuse: the snapshotter has done it.
                false => place.hold_if_there(change, &commit.name)?,
            }
            if record::get(change, namespace, snapshotter, &commit.name)?.is_some() {
                // It stays under the lease: the caller goes on with it.
                return Ok((Err(place.taken(&commit.name)), None));
            }
            if !parent.is_empty() {
                same_parent(change, &place, &commit.parent, &parent)?;
            }
            record::remove(change, namespace, snapshotter, &commit.key)?;
            place.let_go(change, &commit.key)?;
            let now = SystemTime::now();
            let mut new = Entry {
                snapshotter: snapshotter.clone(),
                key: commit.name.clone(),
                parent: if old.parent.is_empty() { commit.parent } else { old.parent },
                name,
                becoming: String::new(),
                labels: commit.labels,
                created_at: now,
                updated_at: now,
            };
            record::put(change, namespace, &mut new)?;
            if let Some(fix) = fix {
                local::record::commit(change, snapshotter, &fix)?;
            }
            let snapshotter = snapshotter.clone();
            let event =
                ObjectEvent::SnapshotCommit { snapshotter, key: commit.key, name: commit.name };
            Ok((Ok(()), Some(event)))
        };
        self.announcer().write_some(self.db(), &namespace, change).await?
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
        let place = Place::new(namespace, snapshotter, lease);
        let (this, key) = (self.clone(), key.to_owned());
        self.own(async move {
            match &backend {
                Backend::Local(local) => {
                    let (entry, row) = this.remove_record(place, key, true).await?;
                    // What is left is removed with other garbage.
                    if let Err(e) = local.clear(row.into_iter().collect()).await {
                        let name = entry.name;
                        tracing::warn!(name, error = %e.report(), "a snapshot was left behind");
                    }
                }
                Backend::Remote(remote) => {
                    let _claims = this.claim_keys(&place.snapshotter, vec![&key]).await;
                    let snapshotter = place.snapshotter.clone();
                    let (entry, _) = this.remove_record(place, key, false).await?;
                    this.clear_remote(&**remote, &snapshotter, entry).await;
                }
            }
            Ok(())
        })
        .await
    }

    /// Removes the record, and answers it, with what the snapshotter noted if it
    /// is one of our own.
    async fn remove_record(
        &self,
        place: Place,
        key: String,
        is_local: bool,
    ) -> Result<(Entry, Option<Row>)> {
        let namespace = place.namespace.clone();
        let change = move |change: &mut Change<'_>| {
            let Place { namespace, snapshotter, .. } = &place;
            let entry = record::find(change, namespace, snapshotter, &key)?;
            let row = match is_local {
                true => local::record::get(change, snapshotter, &entry.name)?,
                false => None,
            };
            // Nothing builds upon what is not committed, so there is no need to
            // look.
            let may_be_parent = row.as_ref().is_none_or(|row| row.kind == Kind::Committed);
            if may_be_parent && record::is_parent(change, namespace, snapshotter, &key)? {
                return Err(Error::precondition(format!("others build upon snapshot {key:?}")));
            }
            record::remove(change, namespace, snapshotter, &key)?;
            if row.is_some() {
                local::record::remove(change, snapshotter, &entry.name)?;
            }
            place.let_go(change, &key)?;
            let snapshotter = snapshotter.clone();
            Ok(((entry, row), ObjectEvent::SnapshotRemove { snapshotter, key }))
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
            match &backend {
                Backend::Local(local) => {
                    let change = this.db().write(move |change| {
                        let named = record::names(change, &snapshotter)?;
                        local::record::remove_others(change, &snapshotter, &named)
                    });
                    local.clear(change.await?).await?;
                    local.cleanup().await
                }
                Backend::Remote(remote) => this.sweep_remote(&**remote, &snapshotter).await,
            }
        })
        .await
    }
}

/// What is there before a commit.
fn ground(db: &impl Read, place: &Place, commit: &Commit) -> Result<Ground> {
    let Place { namespace, snapshotter, .. } = place;
    if record::get(db, namespace, snapshotter, &commit.name)?.is_some() {
        return Ok(Ground::Taken);
    }
    let old = record::find(db, namespace, snapshotter, &commit.key)?;
    if !old.parent.is_empty() && !commit.parent.is_empty() && old.parent != commit.parent {
        return Err(Error::invalid(format!("snapshot {:?} has another parent", commit.key)));
    }
    let parent = match commit.parent.as_str() {
        parent if old.parent.is_empty() && !parent.is_empty() => {
            record::find(db, namespace, snapshotter, parent)?.name
        }
        _ => String::new(),
    };
    Ok(Ground::Active(old, parent))
}
