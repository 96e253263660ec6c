//! Views of snapshots, to look at them for a while.

use std::collections::BTreeMap;

use crate::{Lease, Result, RootMount, SnapshotKind, Snapshots, rootfs};

/// Views that are made to look at snapshots, and removed together. Nobody else
/// knows their names, and so has them mounted or removes them meanwhile. Without a
/// lease they stay if this is lost.
#[derive(Debug)]
pub struct Views {
    snapshots: Snapshots,
    keys: Vec<String>,
}

impl Views {
    /// None yet.
    pub fn new(snapshots: Snapshots) -> Self {
        Self { snapshots, keys: Vec::new() }
    }

    /// How to mount a snapshot of whatever kind.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn mounts(&mut self, key: &str) -> Result<Vec<RootMount>> {
        match self.snapshots.stat(key).await?.kind {
            SnapshotKind::Committed => self.view(key).await,
            _ => self.snapshots.mounts(key).await,
        }
    }

    /// Makes a view of a committed snapshot; of nothing, if that is empty.
    ///
    /// # Errors
    /// `NotFound`, and those of the snapshotter.
    pub async fn view(&mut self, parent: &str) -> Result<Vec<RootMount>> {
        let key = format!("{parent}-view-{}", Lease::random_id());
        let mounts = self.snapshots.view(&key, parent, BTreeMap::new()).await?;
        self.keys.push(key);
        Ok(mounts)
    }

    /// Removes all of them; one that is gone is success.
    ///
    /// # Errors
    /// Those of the snapshotter. The others are removed all the same.
    pub async fn remove(self) -> Result<()> {
        let mut outcome = Ok(());
        for key in &self.keys {
            outcome = outcome.and(rootfs::remove(&self.snapshots, key).await);
        }
        outcome
    }
}
