//! One pass over all namespaces.

use std::{
    collections::{BTreeSet, HashSet},
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use shim_protocol::{Id, Result};
use tokio::sync::Mutex;

use super::{
    mark::{Depth, Marks, Saying},
    node::{Kind, Node},
    records::{Records, written},
};
use crate::{
    announce::{Announcer, ObjectEvent},
    content::{Content, Digest, is_away},
    fault,
    metadata::{
        Change, Counts, Db, Key, Read, Touched, last_part,
        schema::{LEASE_RESOURCES, NAMESPACES},
    },
    snapshots::Snapshots,
};

/// Removes what snapshotters keep and no record names.
#[async_trait]
pub trait SweepSnapshots: Send + Sync + 'static {
    /// The names of the snapshotters.
    fn names(&self) -> Vec<String>;

    /// Removes from one of them what no record names.
    ///
    /// # Errors
    /// Those of the snapshotter.
    async fn sweep(&self, snapshotter: &str) -> Result<()>;

    /// The names of those that may have something which no record names, for
    /// another reason than that the collector has removed records. Each is told
    /// once.
    fn take_unswept(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

#[async_trait]
impl SweepSnapshots for Snapshots {
    fn names(&self) -> Vec<String> {
        Self::names(self).map(str::to_owned).collect()
    }

    async fn sweep(&self, snapshotter: &str) -> Result<()> {
        Self::sweep(self, snapshotter).await
    }

    fn take_unswept(&self) -> BTreeSet<String> {
        Self::take_unswept(self)
    }
}

/// What a pass has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Leases whose time was over.
    pub leases: usize,
    /// Images whose time was over and that nothing referred to.
    pub images: usize,
    /// Records of content.
    pub content: usize,
    /// Records of snapshots.
    pub snapshots: usize,
    /// Ingests that nobody goes on with.
    pub ingests: usize,
    /// How long it took until the last record was gone, without the files.
    pub elapsed: Duration,
}

/// Finds and removes garbage.
pub struct Collector {
    db: Db,
    announcer: Announcer,
    content: Content,
    snapshots: Arc<dyn SweepSnapshots>,
    /// What is to be swept. Taken for a whole pass: one at a time.
    unswept: Mutex<Unswept>,
}

/// Where files may be that no record names.
#[derive(Debug)]
struct Unswept {
    blobs: Vec<Digest>,
    snapshotters: BTreeSet<String>,
}

/// Records that a transaction removed.
#[derive(Debug, Default)]
pub(super) struct Removed {
    leases: usize,
    images: usize,
    content: Vec<Digest>,
    snapshots: usize,
    snapshotters: BTreeSet<String>,
}

/// What was found in one namespace.
pub(super) struct Found {
    pub(super) marks: Marks,
    pub(super) garbage: Vec<Node>,
}

impl Collector {
    /// Collects in `db` and what is kept on disk for its records. Images and
    /// snapshots that go are announced by `announcer`.
    pub fn new(
        db: Db,
        announcer: Announcer,
        content: Content,
        snapshots: Arc<dyn SweepSnapshots>,
    ) -> Self {
        // A daemon that was killed may have left something in each.
        let snapshotters = snapshots.names().into_iter().collect();
        let unswept = Mutex::new(Unswept { blobs: Vec::new(), snapshotters });
        Self { db, announcer, content, snapshots, unswept }
    }

    /// Removes all that nothing referred to when this was called, and that
    /// nothing has begun to refer to meanwhile.
    ///
    /// # Errors
    /// Those of the disk and of snapshotters. What one part could not do keeps
    /// no other from its work, and is tried again by the next pass.
    pub async fn collect(&self) -> Result<Collected> {
        let mut unswept = self.unswept.lock().await;
        let (started, now) = (Instant::now(), SystemTime::now());
        let mut collected = Collected::default();
        let mut outcome = Ok(());
        let namespaces = self.db.read(|db| namespaces(db)).await?;
        for namespace in namespaces {
            match self.collect_records(&namespace, now).await {
                Ok(removed) => {
                    collected.leases += removed.leases;
                    collected.images += removed.images;
                    collected.content += removed.content.len();
                    collected.snapshots += removed.snapshots;
                    unswept.blobs.extend(removed.content);
                    unswept.snapshotters.extend(removed.snapshotters);
                }
                Err(error) => worse(&mut outcome, error, "garbage of a namespace stays"),
            }
        }
        collected.elapsed = started.elapsed();
        let mut blobs = std::mem::take(&mut unswept.blobs).into_iter();
        while let Some(digest) = blobs.next() {
            if let Err(error) = self.content.sweep_blob(&digest).await {
                let is_away = is_away(&error);
                worse(&mut outcome, error, "blob stays");
                unswept.blobs.push(digest);
                if is_away {
                    // Nor can the others go; there is no use in waiting for each.
                    unswept.blobs.extend(blobs);
                    break;
                }
            }
        }
        fault::point("gc.swept.content");
        // Records may name a snapshotter that is not there any more.
        let names = self.snapshots.names();
        unswept.snapshotters.extend(self.snapshots.take_unswept());
        unswept.snapshotters.retain(|name| names.contains(name));
        for snapshotter in std::mem::take(&mut unswept.snapshotters) {
            if let Err(error) = self.snapshots.sweep(&snapshotter).await {
                worse(&mut outcome, error, "snapshots stay");
                unswept.snapshotters.insert(snapshotter);
            }
        }
        fault::point("gc.swept.snapshots");
        match self.content.sweep_ingests(now).await {
            Ok(ingests) => collected.ingests = ingests,
            Err(error) => worse(&mut outcome, error, "ingests stay"),
        }
        fault::point("gc.swept.ingests");
        outcome.map(|()| collected)
    }

    pub(super) fn counts(&self) -> Counts {
        self.db.counts()
    }

    pub(super) async fn changed(&self, seen: Counts) -> Counts {
        self.db.changed(seen).await
    }

    async fn collect_records(&self, namespace: &Id, now: SystemTime) -> Result<Removed> {
        let watching = self.db.watch().await?;
        let room = namespace.clone();
        let found = self.db.read(move |db| find(db, &room, now)).await?;
        fault::point("gc.marked");
        if found.garbage.is_empty() {
            return Ok(Removed::default());
        }
        let room = namespace.clone();
        let change = move |change: &mut Change<'_>| {
            change.note_collection();
            remove(change, &room, found, &watching.take())
        };
        let removed = self.announcer.write_some(&self.db, namespace, change).await?;
        fault::point("gc.removed");
        tracing::debug!(%namespace, ?removed, "removed garbage");
        Ok(removed)
    }
}

/// Keeps the first error, and logs all.
fn worse(outcome: &mut Result<()>, error: shim_protocol::Error, what: &str) {
    tracing::warn!(error = %error.report(), "{what}");
    if outcome.is_ok() {
        *outcome = Err(error);
    }
}

fn namespaces(db: &impl Read) -> Result<Vec<Id>> {
    let mut all = Vec::new();
    db.scan(NAMESPACES, &Key::new(&[])?, |key, _| {
        all.push(Id::new("namespace", last_part(key)?)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// Marks, and says what is left.
pub(super) fn find(db: &impl Read, namespace: &Id, now: SystemTime) -> Result<Found> {
    let records = Records { db, namespace, now };
    let mut marks = Marks::new(now);
    let mut garbage = Vec::new();
    records.survey(|saying| match saying {
        Saying::Exists(node) => garbage.push(node),
        saying => marks.note(saying),
    })?;
    marks.walk(&records)?;
    garbage.retain(|node| !marks.is_reached(node));
    Ok(Found { marks, garbage })
}

/// Removes what was found, but for what was written since, and what is reached
/// from there. What was written since stays though nothing refers to it; the
/// parents of such a snapshot stay with it.
pub(super) fn remove(
    change: &mut Change<'_>,
    namespace: &Id,
    found: Found,
    touched: &[Touched],
) -> Result<(Removed, Vec<ObjectEvent>)> {
    let Found { mut marks, garbage } = found;
    let records = Records { db: &*change, namespace, now: marks.now() };
    let mut fresh = HashSet::new();
    for touched in touched {
        records.resurvey(touched, &mut marks)?;
        let Some(node) = written(namespace, touched)? else { continue };
        if node.kind == Kind::Snapshot {
            // A snapshot without its parent is good for nothing.
            marks.note(Saying::Root(node.clone(), Depth::Flat));
        }
        fresh.insert(node);
    }
    marks.walk(&records)?;
    let (mut removed, mut events) = (Removed::default(), Vec::new());
    for node in garbage {
        if marks.is_reached(&node) || fresh.contains(&node) {
            continue;
        }
        let Some(key) = node.key(namespace)? else { continue };
        if !change.remove(node.kind.table(), &key)? {
            continue;
        }
        match node.kind {
            Kind::Lease => {
                change.remove_all(LEASE_RESOURCES, &key)?;
                removed.leases += 1;
            }
            Kind::Image => {
                removed.images += 1;
                events.push(ObjectEvent::ImageDelete { name: node.name });
            }
            Kind::Content => removed.content.push(Digest::parse(&node.name)?),
            Kind::Snapshot => {
                let Some((snapshotter, key)) = node.parts() else { continue };
                let (snapshotter, key) = (snapshotter.to_owned(), key.to_owned());
                removed.snapshots += 1;
                removed.snapshotters.insert(snapshotter.clone());
                events.push(ObjectEvent::SnapshotRemove { snapshotter, key });
            }
            // Never collected.
            Kind::Container => {}
        }
    }
    Ok((removed, events))
}
