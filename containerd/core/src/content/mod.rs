//! Content: what has a digest for a name, such as layers and manifests.
//!
//! Bytes are on disk (`blobs`, `ingest`) and shared by all namespaces; a
//! record in the database says that a namespace has them. The record comes
//! last when content is committed, and goes first when it is deleted: bytes
//! without a record are removed at the next chance, and a record without bytes
//! comes about only if the disk loses them. Such content counts as not there,
//! and whoever writes it again mends it.
//!
//! The bytes may also be with another process (`remote`). What is said here of
//! the disk is then said of that.

mod backend;
mod blobs;
mod check;
mod elsewhere;
mod garbage;
mod ingest;
mod ingestion;
mod record;
mod recover;
mod reference;
mod remote;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use crate::{
    claims,
    filter::{Adaptor, labels_field},
};

pub use blobs::Blob;
pub(crate) use check::Findings;
pub use containerd_images::{Algorithm, Digest};
pub(crate) use garbage::is_away;
pub use ingestion::Ingestion;
pub use recover::Recovered;
pub use remote::{RemoteStore, RemoteWriter};
pub use store::{Content, ContentConfig, Sharing};
pub(crate) use view::View;
pub use writer::Writer;

/// Label of a namespace whose content may be had by others although namespaces
/// are isolated; its value is `true`.
pub const SHAREABLE_LABEL: &str = "containerd.io/namespace.shareable";

/// What is known of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Labels; one with an empty value is not kept.
    pub labels: BTreeMap<String, String>,
    /// When the namespace got it.
    pub created_at: SystemTime,
    /// When its labels were last changed.
    pub updated_at: SystemTime,
}

/// Fields: `digest`, `labels.<key>`.
impl Adaptor for Info {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        match first.as_str() {
            "digest" => Some(self.digest.to_string().into()),
            "labels" => labels_field(&self.labels, rest),
            _ => None,
        }
    }
}

/// How far content has come that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What its writer calls it.
    pub reference: String,
    /// How much has come, in bytes.
    pub offset: u64,
    /// How much it will be, in bytes; 0 when that is not known.
    pub total: u64,
    /// When its writer began.
    pub started_at: SystemTime,
    /// When something was last written.
    pub updated_at: SystemTime,
}

/// Field: `ref`.
impl Adaptor for Status {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path {
            [field, ..] if field == "ref" => Some(self.reference.as_str().into()),
            _ => None,
        }
    }
}
