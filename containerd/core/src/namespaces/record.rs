//! How a namespace lies in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::collections::BTreeMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(super) labels: BTreeMap<String, String>,
}
