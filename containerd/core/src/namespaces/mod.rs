//! Namespaces: named rooms that keep the objects of different clients apart.

mod record;
mod store;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap};

use shim_protocol::Id;

use crate::filter::{Adaptor, labels_field};

pub use store::Namespaces;
pub(crate) use store::{ensure, labels_of};

/// Label with the runtime of containers that name none.
pub const DEFAULT_RUNTIME_LABEL: &str = "containerd.io/defaults/runtime";

/// Label with the snapshotter of containers that name none.
pub const DEFAULT_SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";

/// A namespace with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Id,
    /// Labels; one with an empty value is not kept.
    pub labels: BTreeMap<String, String>,
}

/// Fields: `name`, `labels.<key>`.
impl Adaptor for Namespace {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        match first.as_str() {
            "name" => Some(self.name.as_str().into()),
            "labels" => labels_field(&self.labels, rest),
            _ => None,
        }
    }
}
