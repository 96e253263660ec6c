//! Records of sandboxes: what several containers share, such as a pod. Whether
//! one runs is the concern of whoever made it.

mod record;
mod store;
#[cfg(test)]
mod tests;
mod update;

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use shim_protocol::Id;

use crate::{
    Any,
    containers::Runtime,
    filter::{Adaptor, labels_field},
};

pub use store::Sandboxes;

/// A sandbox, as described by the client that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Chosen by the client; never changes. Unique within its namespace.
    pub id: Id,
    /// Labels; one with an empty value is not kept.
    pub labels: BTreeMap<String, String>,
    /// Which shim makes it, and how. May have no name.
    pub runtime: Runtime,
    /// What it is to be, in words of the shim.
    pub spec: Option<Any>,
    /// What clients attach for themselves, by a name each has chosen.
    pub extensions: BTreeMap<String, Any>,
    /// Which controller makes it; may be empty.
    pub sandboxer: String,
    /// When it was recorded. Set by the store.
    pub created_at: SystemTime,
    /// When its record last changed. Set by the store as well.
    pub updated_at: SystemTime,
}

/// Fields: `id`, `labels.<key>` (containerd, `core/metadata/adaptors.go`).
impl Adaptor for Sandbox {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        match first.as_str() {
            "id" => Some(self.id.as_str().into()),
            "labels" => labels_field(&self.labels, rest),
            _ => None,
        }
    }
}
