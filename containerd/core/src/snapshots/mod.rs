//! Snapshots: filesystems that build upon each other. A committed one is a
//! layer of an image or a stack of them, an active one is what a container
//! writes on top.
//!
//! ```text
//!             prepare                    commit
//!   parent ───────────▶ active (key) ───────────▶ committed (name)
//!      │      view
//!      └──────────────▶ view (key), which nobody writes to
//! ```
//!
//! [`Snapshots`] is what each namespace sees. Below it are [`Snapshotter`]s,
//! which know no namespaces: our own, or other processes.

mod check;
mod claimed;
mod create;
mod finish;
mod local;
mod naming;
mod place;
mod record;
mod remote;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod suite;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use async_trait::async_trait;
use shim_protocol::Result;

use crate::{
    Mount,
    filter::{Adaptor, labels_field},
};

pub use check::{Check, Recovered};
pub use create::New;
pub use finish::Commit;
pub use local::{Findings, Layout, Local, LocalConfig, OverlayConfig};
pub use store::{Backend, Snapshots};

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// Labels whose keys begin like this are told to the snapshotter too.
const INHERITED_PREFIX: &str = "containerd.io/snapshot/";

/// Label of a new snapshot with the name of the committed one that will come of
/// it. Where that exists already, nothing is made.
pub const TARGET_LABEL: &str = "containerd.io/snapshot.ref";

/// Label with the user ids that a snapshot's files get: `container:host:size`
/// and more of them after commas.
pub const UID_MAPPING_LABEL: &str = "containerd.io/snapshot/uidmapping";

/// As [`UID_MAPPING_LABEL`], for group ids.
pub const GID_MAPPING_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// What can be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is read, and can be removed.
    View,
    /// It is written to, and can be committed or removed.
    Active,
    /// Others can build upon it; while one does, it cannot be removed.
    Committed,
}

impl Kind {
    /// Its name in filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What can be done with it.
    pub kind: Kind,
    /// The key of an active one or a view, the name of a committed one.
    pub name: String,
    /// Name of the one that it builds upon; may be empty.
    pub parent: String,
    /// Labels; one with an empty value is not kept.
    pub labels: Labels,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it was committed, or its labels were last changed.
    pub updated_at: SystemTime,
}

/// Fields: `kind`, `name`, `parent`, `labels.<key>`.
impl Adaptor for Info {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        match first.as_str() {
            "kind" => Some(self.kind.name().into()),
            "name" => Some(self.name.as_str().into()),
            "parent" => Some(self.parent.as_str().into()),
            "labels" => labels_field(&self.labels, rest),
            _ => None,
        }
    }
}

/// How much disk a snapshot takes, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In bytes.
    pub size: u64,
    /// How many files.
    pub inodes: u64,
}

/// Keeps snapshots: the kernel's overlays, copies, another process, ….
///
/// It knows no namespaces; [`Snapshots`] chooses names that are unique.
#[async_trait]
pub trait Snapshotter: Send + Sync {
    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    async fn stat(&self, key: &str) -> Result<Info>;

    /// Changes the labels that `paths` names: `labels`, or `labels.<key>`. No
    /// path stands for all labels. A label that `labels` lacks is removed.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when a path names something else.
    async fn update(&self, key: &str, labels: Labels, paths: &[String]) -> Result<Info>;

    /// How much disk it takes.
    ///
    /// # Errors
    /// `NotFound`.
    async fn usage(&self, key: &str) -> Result<Usage>;

    /// How an active snapshot or a view is mounted.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one.
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Makes a snapshot that can be written to.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` when there is no such parent;
    /// `InvalidArgument` when the parent is not committed.
    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes a snapshot that is only read.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>>;

    /// Fixes an active snapshot under a name. If it was made without a parent,
    /// it may get one now; `parent` is empty when it keeps what it has.
    ///
    /// # Errors
    /// - `AlreadyExists`; `NotFound`, also when there is no such parent;
    /// - `FailedPrecondition` when it is not active, or the parent is not
    ///   committed;
    /// - `InvalidArgument` when it has another parent;
    /// - `Unimplemented` when it cannot get one now.
    async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()>;

    /// Removes a snapshot.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when others build upon it.
    async fn remove(&self, key: &str) -> Result<()>;

    /// The snapshots that one of `filters` matches; all without filters.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    async fn list(&self, filters: &[String]) -> Result<Vec<Info>>;

    /// Frees what removed snapshots have left on disk.
    ///
    /// # Errors
    /// `Unimplemented` when nothing is ever left.
    async fn cleanup(&self) -> Result<()>;
}

/// The labels that the snapshotter gets to see.
fn inherited(labels: &Labels) -> Labels {
    let is_inherited = |key: &str| key == TARGET_LABEL || key.starts_with(INHERITED_PREFIX);
    labels
        .iter()
        .filter(|(key, _)| is_inherited(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
