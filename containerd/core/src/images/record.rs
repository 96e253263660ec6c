//! How an image lies in the database; tags as in the drawing of
//! [`crate::metadata::schema`].

use std::collections::BTreeMap;

use containerd_images::{Descriptor, Digest};
use shim_protocol::{Error, Result};

use super::Image;
use crate::metadata::stored;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "2")]
    target: Option<Target>,
    #[prost(fixed64, tag = "3")]
    created_at: u64,
    #[prost(fixed64, tag = "4")]
    updated_at: u64,
}

/// The parts of a descriptor that the API tells.
#[derive(Clone, PartialEq, prost::Message)]
struct Target {
    #[prost(string, tag = "1")]
    media_type: String,
    #[prost(string, tag = "2")]
    digest: String,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(btree_map = "string, string", tag = "5")]
    annotations: BTreeMap<String, String>,
}

impl From<Image> for Record {
    fn from(image: Image) -> Self {
        let Descriptor { media_type, digest, size, annotations, .. } = image.target;
        Self {
            labels: image.labels,
            target: Some(Target { media_type, digest: digest.to_string(), size, annotations }),
            created_at: stored::from_time(image.created_at),
            updated_at: stored::from_time(image.updated_at),
        }
    }
}

impl Record {
    /// The image of this name from its record.
    ///
    /// # Errors
    /// `InvalidArgument` when this program cannot have written it.
    pub(super) fn into_image(self, name: String) -> Result<Image> {
        let Some(target) = self.target else {
            return Err(Error::invalid(format!("image {name:?} is recorded without a target")));
        };
        let Target { media_type, digest, size, annotations } = target;
        let mut target = Descriptor::new(media_type, Digest::parse(&digest)?, size);
        target.annotations = annotations;
        Ok(Image {
            name,
            target,
            labels: self.labels,
            created_at: stored::to_time(self.created_at),
            updated_at: stored::to_time(self.updated_at),
        })
    }
}
