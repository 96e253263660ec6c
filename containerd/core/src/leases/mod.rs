//! Leases: what keeps new objects alive until something refers to them.

mod record;
mod resource;
mod store;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use crate::filter::{Adaptor, labels_field};

pub use resource::Resource;
pub use store::Leases;
pub(crate) use store::{all_held, dangling, hold, is_held, let_go};

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Chosen by the client, or made up for it. Any text but the empty one:
    /// unlike other ids, clients put digests and base64 into it.
    pub id: String,
    /// Labels; one with an empty value is not kept.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: SystemTime,
}

/// Fields: `id`, `labels.<key>`.
impl Adaptor for Lease {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        match first.as_str() {
            "id" => Some(self.id.as_str().into()),
            "labels" => labels_field(&self.labels, rest),
            _ => None,
        }
    }
}
