//! Our own snapshotters: records in the database, folders on disk.
//!
//! The folder comes before the record when a snapshot is made, and goes after
//! it: a folder that no record knows is removed, at once or when the snapshotter
//! is next opened. A commit is a change of records alone, or, where a folder has
//! to move, of a folder that is moved back unless the record follows.

mod btrfs;
mod copy;
mod driver;
mod folders;
mod ids;
mod native;
mod overlay;
pub(super) mod record;
mod recover;
mod steps;
mod sys;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio_util::task::TaskTracker;

use self::driver::{Driver, Stack};
use super::{Info, Kind, Labels, Snapshotter, Usage};
use crate::{
    Mount, fault,
    filter::Filter,
    labels,
    metadata::{Db, Snapshot},
};

pub use overlay::OverlayConfig;
pub(super) use record::{Fix, Row};
pub use recover::Findings;

/// Label with the folder of what was written to a snapshot.
const UPPER_LABEL: &str = "containerd.io/snapshot/overlay.upperdir";

/// How snapshots lie on disk.
#[derive(Clone, Debug)]
pub enum Layout {
    /// As overlays.
    Overlay(OverlayConfig),
    /// As copies.
    Native,
    /// As subvolumes of btrfs.
    Btrfs,
}

/// One of our own snapshotters.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Its name, such as `overlayfs`.
    pub name: String,
    /// The folder that its snapshots are in.
    pub root: PathBuf,
    /// How they lie there.
    pub layout: Layout,
    /// Whether another daemon's records may know folders that ours do not: then
    /// only what we know is removed.
    pub foreign: bool,
    /// Whether a snapshot's files are gone when its removal is answered.
    pub sync_remove: bool,
}

/// A snapshotter of our own. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Local(Arc<Inner>);

struct Inner {
    db: Db,
    name: String,
    root: PathBuf,
    driver: Box<dyn Driver>,
    foreign: bool,
    sync_remove: bool,
    /// The id of the next folder.
    next: AtomicU64,
    /// Ids of folders that are not recorded yet, or on their way to another place.
    at_work: Mutex<HashSet<u64>>,
    /// Whether there may be folders that no record knows, and nobody removes.
    unswept: AtomicBool,
    /// Files that are being removed, with nobody waiting.
    work: TaskTracker,
}

impl Local {
    /// What is told of a snapshot of ours, by its record.
    pub(super) fn info(&self, name: String, row: Row) -> Info {
        let upper = self.0.driver.upper(row.id);
        let mut info = row.into_info(name);
        if let Some(upper) = upper {
            info.labels.insert(UPPER_LABEL.into(), upper.to_string_lossy().into_owned());
        }
        info
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The folder that its snapshots are in.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// What clients may rely on, in containerd's words, such as `rebase`.
    pub fn capabilities(&self) -> Vec<&'static str> {
        self.0.driver.capabilities()
    }

    /// Waits for files that are being removed.
    pub async fn shutdown(&self) {
        self.0.work.close();
        self.0.work.wait().await;
    }

    async fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let name = key.to_owned();
        let row = self.read(move |db, snapshotter| record::get(db, snapshotter, &name)).await?;
        if row.is_some() {
            return Err(Error::already_exists(format!("snapshot {key:?}")));
        }
        let made = self.make(kind, parent, labels).await?;
        let (name, row) = (key.to_owned(), made.row(parent));
        let snapshotter = self.0.name.clone();
        let recorded =
            self.0.db.write(move |change| record::create(change, &snapshotter, &name, &row)).await;
        self.settle(made, recorded).await
    }

    /// Reads of the records of this snapshotter.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot<'_>, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = self.0.name.clone();
        self.0.db.read(move |db| read(db, &name)).await
    }

    /// Does work that blocks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Driver) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&*this.driver)).await {
            Ok(outcome) => outcome,
            Err(e) => Err(Error::caused(ErrorKind::Internal, "access snapshots", e)),
        }
    }
}

impl Inner {
    fn at_work(&self) -> MutexGuard<'_, HashSet<u64>> {
        // One insertion or removal cannot be left halfway.
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Snapshotter for Local {
    async fn stat(&self, key: &str) -> Result<Info> {
        let name = key.to_owned();
        let row = self.read(move |db, snapshotter| record::find(db, snapshotter, &name)).await?;
        Ok(self.info(key.to_owned(), row))
    }

    async fn update(&self, key: &str, new: Labels, paths: &[String]) -> Result<Info> {
        let (name, snapshotter, paths) = (key.to_owned(), self.0.name.clone(), paths.to_vec());
        let change =
            self.0.db.write(move |change| record::update(change, &snapshotter, &name, new, &paths));
        Ok(self.info(key.to_owned(), change.await?))
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let usage = |row: &Row| match row.kind {
            Kind::Active => Ok(None),
            _ => Ok(Some(row.usage)),
        };
        self.look(key, usage, |driver, stack| driver.usage(stack)).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let refuse = |row: &Row| match row.kind {
            Kind::Committed => Err(Error::precondition(format!("snapshot {key:?} is committed"))),
            _ => Ok(None),
        };
        self.look(key, refuse, |driver, stack| driver.mounts(stack)).await
    }

    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels).await
    }

    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels).await
    }

    async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let (name, key, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        let fix = Fix { name, key, parent, labels, usage: Usage::default() };
        let fixed = self.fix(fix).await?;
        let (snapshotter, fix) = (self.0.name.clone(), fixed.fix().clone());
        let recorded =
            self.0.db.write(move |change| record::commit(change, &snapshotter, &fix)).await;
        self.settle_fix(fixed, recorded).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let (name, snapshotter) = (key.to_owned(), self.0.name.clone());
        let row =
            self.0.db.write(move |change| record::remove(change, &snapshotter, &name)).await?;
        self.clear(vec![row]).await
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filter = Filter::parse(filters)?;
        let rows = self.read(|db, snapshotter| record::list(db, snapshotter)).await?;
        let infos = rows.into_iter().map(|(name, row)| self.info(name, row));
        Ok(infos.filter(|info| filter.matches(info)).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        self.remove_leftovers().await
    }
}
