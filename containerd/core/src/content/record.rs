//! How content is recorded in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::collections::BTreeMap;

use super::{Digest, Info};
use crate::metadata::stored;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(fixed64, tag = "3")]
    created_at: u64,
    #[prost(fixed64, tag = "4")]
    updated_at: u64,
}

impl From<&Info> for Record {
    fn from(info: &Info) -> Self {
        Self {
            labels: info.labels.clone(),
            size: info.size,
            created_at: stored::from_time(info.created_at),
            updated_at: stored::from_time(info.updated_at),
        }
    }
}

impl Record {
    /// What is known of the content with this digest.
    pub(super) fn into_info(self, digest: Digest) -> Info {
        Info {
            digest,
            size: self.size,
            labels: self.labels,
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
        }
    }
}
