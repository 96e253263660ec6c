//! Records of containers: all that is needed to start one, and what it keeps
//! in use. Whether one runs is a matter of [`crate::tasks`].

mod record;
mod store;
#[cfg(test)]
mod tests;
mod update;

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use shim_protocol::Id;

use crate::{
    Any,
    filter::{Adaptor, labels_field},
};

pub use store::Containers;

/// A container, as described by the client that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Chosen by the client; never changes. Unique within its namespace.
    pub id: Id,
    /// Labels; one with an empty value is not kept.
    pub labels: BTreeMap<String, String>,
    /// Name of the image it was made from; may be empty.
    pub image: String,
    /// Which shim to start, and how.
    pub runtime: Runtime,
    /// OCI configuration, most often JSON.
    pub spec: Option<Any>,
    /// Name of the snapshotter that has its root; may be empty.
    pub snapshotter: String,
    /// Key of the snapshot with its root; empty if the root is no snapshot.
    pub snapshot_key: String,
    /// When it was recorded. Set by the store; what a caller puts here is ignored.
    pub created_at: SystemTime,
    /// When its record last changed. Set by the store as well.
    pub updated_at: SystemTime,
    /// What clients attach for themselves, by a name each has chosen.
    pub extensions: BTreeMap<String, Any>,
    /// Id of the sandbox it belongs to; may be empty.
    pub sandbox: String,
}

/// Which shim a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Such as `io.containerd.runc.v2`, or an absolute path.
    pub name: String,
    /// For instance `containerd.runc.v1.Options`.
    pub options: Option<Any>,
}

/// Fields: `id`, `image`, `runtime.name`, `labels.<key>` (containerd,
/// `core/metadata/adaptors.go`).
impl Adaptor for Container {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        let value = match (first.as_str(), rest) {
            ("id", _) => self.id.as_str(),
            ("image", _) => self.image.as_str(),
            ("runtime", [name, ..]) if name == "name" => self.runtime.name.as_str(),
            ("labels", key) => return labels_field(&self.labels, key),
            _ => return None,
        };
        (!value.is_empty()).then(|| value.into())
    }
}
