//! Snapshots as root filesystems of containers.

use std::collections::BTreeMap;

use crate::{Namespace, Result, RootMount, Snapshots};

/// The snapshotter of who names none.
const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

/// Label of a namespace with the snapshotter of who names none.
const DEFAULT_SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";

/// A snapshot that a container is to get.
#[derive(Clone, Debug)]
pub(crate) struct NewSnapshot {
    pub(crate) parent: String,
    pub(crate) read_only: bool,
    pub(crate) labels: BTreeMap<String, String>,
}

impl NewSnapshot {
    pub(crate) async fn make(self, snapshots: &Snapshots, key: &str) -> Result<Vec<RootMount>> {
        let Self { parent, read_only, labels } = self;
        match read_only {
            true => snapshots.view(key, &parent, labels).await,
            false => snapshots.prepare(key, &parent, labels).await,
        }
    }
}

/// Removes a snapshot, which may be gone.
pub(crate) async fn remove(snapshots: &Snapshots, key: &str) -> Result<()> {
    match snapshots.remove(key).await {
        Err(e) if e.is_not_found() => Ok(()),
        removed => removed,
    }
}

impl Namespace {
    /// The snapshotter `name`; if that is empty, the one that the namespace has
    /// a label for, or else `overlayfs`.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn snapshotter(&self, name: &str) -> Result<String> {
        if !name.is_empty() {
            return Ok(name.into());
        }
        let labels = match self.client().namespaces().get(self.name()).await {
            Ok(record) => record.labels,
            Err(e) if e.is_not_found() => BTreeMap::new(),
            Err(e) => return Err(e),
        };
        let label = labels.get(DEFAULT_SNAPSHOTTER_LABEL).filter(|value| !value.is_empty());
        Ok(label.cloned().unwrap_or_else(|| DEFAULT_SNAPSHOTTER.into()))
    }
}
