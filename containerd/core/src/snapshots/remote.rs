//! Snapshots that another process keeps: what it is asked for, in which order
//! with our records.
//!
//! It may do what it is asked for and the answer be lost, or this daemon killed
//! before it has recorded it. So what it makes has a name that was never used
//! before, and what it commits gets one that is recorded before it is asked:
//! whatever it has under another name is garbage, and only that. See
//! [`super::claimed`] for who waits for whom.

use std::collections::BTreeSet;

use shim_protocol::{Error, ErrorKind, Result};

use super::{
    Commit, Info, Kind, New, Snapshots, Snapshotter, TARGET_LABEL,
    create::{entry, same_parent},
    inherited,
    place::Place,
    record::{self, Entry, absent},
};
use crate::{Mount, metadata::Change};

/// How often a snapshotter is asked for what it says it has, and then has not.
const TRIES: u32 = 3;

impl Snapshots {
    /// Makes a snapshot. Its key and its target must be claimed.
    ///
    /// # Errors
    /// Those of the snapshotter and of [`Self::record`]; `AlreadyExists` when
    /// the target is there.
    pub(super) async fn create_remote(
        &self,
        remote: &dyn Snapshotter,
        place: Place,
        kind: Kind,
        new: New,
        parent: String,
    ) -> Result<Vec<Mount>> {
        let snapshotter = place.snapshotter.clone();
        for _ in 0..TRIES {
            let name = self.naming().name(&place.namespace, &new.key);
            let claim = self.claim_name(&snapshotter, &name).await;
            let told = inherited(&new.labels);
            let made = match kind {
                Kind::View => remote.view(&name, &parent, told).await,
                _ => remote.prepare(&name, &parent, told).await,
            };
            match made {
                Ok(mounts) => {
                    let entry = entry(&snapshotter, name.clone(), new);
                    let recorded = self.record(place, kind, entry, parent, None).await;
                    if recorded.is_err() {
                        // When the disk failed it may be recorded all the same.
                        self.remove_or_leave(remote, &snapshotter, &name).await;
                    }
                    return recorded.map(|()| mounts);
                }
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    // It may have been made.
                    self.set_unswept(&snapshotter);
                    return Err(e);
                }
                Err(_) => {}
            }
            drop(claim);
            if let Some(taken) = self.adopt(remote, &place, &new, &parent).await? {
                return Err(taken);
            }
        }
        let target = new.labels.get(TARGET_LABEL);
        Err(Error::not_found(format!("snapshot {target:?} in {snapshotter:?}")))
    }

    /// The snapshotter says that it has the target already: then that becomes
    /// one of the namespace. The answer says that it is there; none when it went
    /// meanwhile.
    async fn adopt(
        &self,
        remote: &dyn Snapshotter,
        place: &Place,
        new: &New,
        parent: &str,
    ) -> Result<Option<Error>> {
        let Some(target) = target(&new.labels) else {
            // The name was never used before.
            let text = format!("snapshotter {:?} mixes up snapshots", place.snapshotter);
            return Err(Error::new(ErrorKind::Unknown, text));
        };
        let is_target = |info: &Info| {
            info.kind == Kind::Committed
                && info.labels.get(TARGET_LABEL).is_some_and(|found| found == target)
                && info.parent == parent
        };
        let Some(found) = remote.list(&[]).await?.into_iter().find(is_target) else {
            return Ok(None);
        };
        let _claim = self.claim_name(&place.snapshotter, &found.name).await;
        // Another namespace that had it may have removed it until then.
        let found = match remote.stat(&found.name).await {
            Ok(found) if is_target(&found) => found,
            Err(e) if !e.is_not_found() => return Err(e),
            _ => return Ok(None),
        };
        let entry = Entry {
            snapshotter: place.snapshotter.clone(),
            key: target.to_owned(),
            parent: new.parent.clone(),
            name: found.name,
            becoming: String::new(),
            labels: found.labels.into_iter().chain(new.labels.clone()).collect(),
            created_at: found.created_at,
            updated_at: found.updated_at,
        };
        let recorded =
            self.record(place.clone(), Kind::Committed, entry, parent.to_owned(), None).await;
        match recorded {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
            _ => Ok(Some(place.taken(target))),
        }
    }

    /// Commits a snapshot, or records that it is committed. Both keys, and that
    /// of a parent that it gets, must be claimed.
    ///
    /// If the outcome is not known, the next try goes on from there.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(super) async fn commit_remote(
        &self,
        remote: &dyn Snapshotter,
        place: Place,
        commit: Commit,
        old: Entry,
        parent: String,
    ) -> Result<()> {
        let name = match old.becoming.as_str() {
            "" => self.naming().name(&place.namespace, &commit.name),
            // An earlier try, whose outcome is not known, gave it that name.
            name => name.to_owned(),
        };
        let snapshotter = place.snapshotter.clone();
        let _claim = self.claim_name(&snapshotter, &name).await;
        let upon = self.intend(&place, &commit, &old, &parent, &name).await?;
        let told = inherited(&commit.labels);
        if let Err(refused) = remote.commit(&name, &old.name, &parent, told).await {
            match remote.stat(&name).await {
                Ok(info) if info.kind == Kind::Committed && info.parent == upon => {}
                Ok(info) if info.kind == Kind::Committed => {
                    let text = format!("snapshot {:?} was given another parent", commit.key);
                    return Err(Error::precondition(text));
                }
                _ => return Err(refused),
            }
        }
        let recorded = self.record_commit(place, commit, old, parent, name, None).await;
        if recorded.is_err() {
            // If the collector has removed the record meanwhile.
            self.set_unswept(&snapshotter);
        }
        recorded
    }

    /// Notes what a commit will make of a snapshot, which the lease holds until
    /// then. Answers what the snapshotter calls the parent that it then has.
    async fn intend(
        &self,
        place: &Place,
        commit: &Commit,
        old: &Entry,
        parent: &str,
        name: &str,
    ) -> Result<String> {
        let (place, commit, old) = (place.clone(), commit.clone(), old.clone());
        let (parent, name) = (parent.to_owned(), name.to_owned());
        let change = move |change: &mut Change<'_>| {
            let Place { namespace, snapshotter, .. } = &place;
            let mut entry = record::find(change, namespace, snapshotter, &commit.key)?;
            if entry.name != old.name {
                return Err(absent(namespace, &commit.key));
            }
            let upon = if parent.is_empty() {
                let parent = record::get(change, namespace, snapshotter, &entry.parent)?;
                parent.map(|parent| parent.name).unwrap_or_default()
            } else {
                same_parent(change, &place, &commit.parent, &parent)?;
                parent
            };
            place.hold(change, &commit.key)?;
            entry.becoming = name;
            record::put(change, namespace, &mut entry)?;
            Ok(upon)
        };
        self.db().write(change).await
    }

    /// Removes what a record named that is gone. Its key must be claimed.
    pub(super) async fn clear_remote(
        &self,
        remote: &dyn Snapshotter,
        snapshotter: &str,
        entry: Entry,
    ) {
        if !entry.becoming.is_empty() {
            // It may still be at it.
            self.set_unswept(snapshotter);
        }
        for name in [entry.name, entry.becoming].into_iter().filter(|name| !name.is_empty()) {
            let _claim = self.claim_name(snapshotter, &name).await;
            self.remove_or_leave(remote, snapshotter, &name).await;
        }
    }

    /// Removes what no record names, and what that leaves on disk.
    ///
    /// # Errors
    /// Those of the snapshotter.
    pub(super) async fn sweep_remote(
        &self,
        remote: &dyn Snapshotter,
        snapshotter: &str,
    ) -> Result<()> {
        let mut left = remote.list(&[]).await?;
        let at = snapshotter.to_owned();
        let named = self.db().read(move |db| record::names(db, &at)).await?;
        left.retain(|info| !named.contains(&info.name));
        // Children before their parents.
        while !left.is_empty() {
            let parents: BTreeSet<String> = left.iter().map(|info| info.parent.clone()).collect();
            let (later, now): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|info| parents.contains(&info.name));
            if now.is_empty() {
                return Err(Error::new(ErrorKind::DataLoss, "snapshots are parents of each other"));
            }
            for info in now {
                self.sweep_one(remote, snapshotter, info).await?;
            }
            left = later;
        }
        match remote.cleanup().await {
            Err(e) if e.kind() != ErrorKind::Unimplemented => Err(e),
            _ => Ok(()),
        }
    }

    async fn sweep_one(
        &self,
        remote: &dyn Snapshotter,
        snapshotter: &str,
        info: Info,
    ) -> Result<()> {
        // Whoever makes one has claimed its name before the snapshotter knows
        // it, and its target before the snapshotter may have that; both until
        // it is recorded.
        let claims = self.try_claim(snapshotter, target(&info.labels), &info.name);
        let Some(_claims) = claims else {
            self.set_unswept(snapshotter);
            return Ok(());
        };
        match self.remove_unnamed(remote, snapshotter, &info.name).await {
            Err(e) if e.kind() == ErrorKind::FailedPrecondition => {
                self.leave(snapshotter, &info.name, &e);
                Ok(())
            }
            other => other,
        }
    }

    /// Removes a snapshot, unless a record names it. Its name must be claimed.
    async fn remove_unnamed(
        &self,
        remote: &dyn Snapshotter,
        snapshotter: &str,
        name: &str,
    ) -> Result<()> {
        let (at, of) = (snapshotter.to_owned(), name.to_owned());
        if self.db().read(move |db| record::is_named(db, &at, &of)).await? {
            return Ok(());
        }
        match remote.remove(name).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// As [`Self::remove_unnamed`]; what cannot be removed now is removed with
    /// other garbage.
    async fn remove_or_leave(&self, remote: &dyn Snapshotter, snapshotter: &str, name: &str) {
        if let Err(e) = self.remove_unnamed(remote, snapshotter, name).await {
            self.leave(snapshotter, name, &e);
        }
    }

    fn leave(&self, snapshotter: &str, name: &str, why: &Error) {
        tracing::warn!(name, error = %why.report(), "a snapshot was left behind");
        self.set_unswept(snapshotter);
    }
}

/// The target that labels name, if they do.
fn target(labels: &super::Labels) -> Option<&str> {
    labels.get(TARGET_LABEL).map(String::as_str).filter(|target| !target.is_empty())
}
