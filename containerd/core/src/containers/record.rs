//! How a container lies in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::collections::BTreeMap;

use shim_protocol::Id;

use super::{Container, Runtime};
use crate::{Any, metadata::stored};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "2")]
    image: String,
    #[prost(string, tag = "3")]
    runtime_name: String,
    #[prost(message, optional, tag = "4")]
    runtime_options: Option<stored::Any>,
    #[prost(message, optional, tag = "5")]
    spec: Option<stored::Any>,
    #[prost(string, tag = "6")]
    snapshotter: String,
    #[prost(string, tag = "7")]
    snapshot_key: String,
    #[prost(fixed64, tag = "8")]
    created_at: u64,
    #[prost(fixed64, tag = "9")]
    updated_at: u64,
    #[prost(btree_map = "string, message", tag = "10")]
    extensions: BTreeMap<String, stored::Any>,
    #[prost(string, tag = "11")]
    sandbox: String,
}

impl From<Container> for Record {
    fn from(container: Container) -> Self {
        Self {
            labels: container.labels,
            image: container.image,
            runtime_name: container.runtime.name,
            runtime_options: container.runtime.options.map(Into::into),
            spec: container.spec.map(Into::into),
            snapshotter: container.snapshotter,
            snapshot_key: container.snapshot_key,
            created_at: stored::from_time(container.created_at),
            updated_at: stored::from_time(container.updated_at),
            extensions: container.extensions.into_iter().map(|(k, v)| (k, v.into())).collect(),
            sandbox: container.sandbox,
        }
    }
}

impl Record {
    /// The container `id` from its record.
    pub(super) fn into_container(self, id: Id) -> Container {
        Container {
            id,
            labels: self.labels,
            image: self.image,
            runtime: Runtime {
                name: self.runtime_name,
                options: self.runtime_options.map(Any::from),
            },
            spec: self.spec.map(Any::from),
            snapshotter: self.snapshotter,
            snapshot_key: self.snapshot_key,
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
            extensions: self.extensions.into_iter().map(|(k, v)| (k, v.into())).collect(),
            sandbox: self.sandbox,
        }
    }
}
