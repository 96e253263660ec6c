//! How a sandbox lies in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::collections::BTreeMap;

use shim_protocol::Id;

use super::Sandbox;
use crate::{Any, containers::Runtime, metadata::stored};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "2")]
    runtime_name: String,
    #[prost(message, optional, tag = "3")]
    runtime_options: Option<stored::Any>,
    #[prost(message, optional, tag = "4")]
    spec: Option<stored::Any>,
    #[prost(btree_map = "string, message", tag = "5")]
    extensions: BTreeMap<String, stored::Any>,
    #[prost(string, tag = "6")]
    sandboxer: String,
    #[prost(fixed64, tag = "7")]
    created_at: u64,
    #[prost(fixed64, tag = "8")]
    updated_at: u64,
}

impl From<Sandbox> for Record {
    fn from(sandbox: Sandbox) -> Self {
        Self {
            labels: sandbox.labels,
            runtime_name: sandbox.runtime.name,
            runtime_options: sandbox.runtime.options.map(Into::into),
            spec: sandbox.spec.map(Into::into),
            extensions: sandbox.extensions.into_iter().map(|(k, v)| (k, v.into())).collect(),
            sandboxer: sandbox.sandboxer,
            created_at: stored::from_time(sandbox.created_at),
            updated_at: stored::from_time(sandbox.updated_at),
        }
    }
}

impl Record {
    /// The sandbox `id` from its record.
    pub(super) fn into_sandbox(self, id: Id) -> Sandbox {
        Sandbox {
            id,
            labels: self.labels,
            runtime: Runtime {
                name: self.runtime_name,
                options: self.runtime_options.map(Any::from),
            },
            spec: self.spec.map(Any::from),
            extensions: self.extensions.into_iter().map(|(k, v)| (k, v.into())).collect(),
            sandboxer: self.sandboxer,
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
        }
    }
}
