//! Images: names for content that containers are made from.
//!
//! A name stands for a descriptor, whose content need not be there: clients
//! may name an image before they fetch it. What is there is kept by the name.

mod record;
mod store;
#[cfg(test)]
mod tests;
mod update;

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use crate::filter::{Adaptor, labels_field};

pub use containerd_images::Descriptor;
pub use store::Images;
pub(crate) use store::targets;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Most often a reference such as `docker.io/library/redis:7`; any text but
    /// the empty one.
    pub name: String,
    /// Index or manifest that it stands for. Media type, digest, size and
    /// annotations are kept.
    pub target: Descriptor,
    /// Labels; one with an empty value is not kept.
    pub labels: BTreeMap<String, String>,
    /// When it was made. Set by the store.
    pub created_at: SystemTime,
    /// When it was last changed. Set by the store as well.
    pub updated_at: SystemTime,
}

impl Image {
    /// An image without labels. The store sets its times.
    pub fn new(name: impl Into<String>, target: Descriptor) -> Self {
        Self {
            name: name.into(),
            target,
            labels: BTreeMap::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        }
    }
}

/// Fields: `name`, `target.digest`, `target.mediatype`, `labels.<key>`,
/// `annotations.<key>` (containerd, `core/metadata/adaptors.go`).
impl Adaptor for Image {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        let [first, rest @ ..] = path else { return None };
        match (first.as_str(), rest) {
            ("name", _) => Some(self.name.as_str().into()),
            ("target", [part, ..]) => match part.as_str() {
                "digest" => Some(self.target.digest.to_string().into()),
                "mediatype" => Some(self.target.media_type.as_str().into()),
                _ => None,
            },
            ("labels", key) => labels_field(&self.labels, key),
            ("annotations", key) => labels_field(&self.target.annotations, key),
            _ => None,
        }
    }
}
