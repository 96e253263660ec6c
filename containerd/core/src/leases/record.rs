//! How a lease lies in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::collections::BTreeMap;

use super::Lease;
use crate::metadata::stored;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(fixed64, tag = "2")]
    created_at: u64,
}

impl From<&Lease> for Record {
    fn from(lease: &Lease) -> Self {
        Self { labels: lease.labels.clone(), created_at: stored::from_time(lease.created_at) }
    }
}

impl Record {
    /// The lease `id` from its record.
    pub(super) fn into_lease(self, id: String) -> Lease {
        Lease { id, labels: self.labels, created_at: stored::to_time(self.created_at) }
    }
}
