//! What points to content.

use std::collections::BTreeMap;

use crate::Digest;

/// Points to content (OCI image specification, "Content Descriptors").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the content is, such as [`crate::media_type::OCI_MANIFEST`].
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Further facts about it.
    pub annotations: BTreeMap<String, String>,
    /// Where else it can be had.
    pub urls: Vec<String>,
    /// What a manifest in an index is made for.
    pub platform: Option<Platform>,
    /// What sort of thing a manifest in an index or list of referrers describes.
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but what each must have.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// Operating system and processor that an image is made for, in the terms of
/// the OCI image specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Kind of the architecture, such as `v7` for `arm`; may be empty.
    pub variant: String,
    /// May be empty.
    pub os_version: String,
    /// What it needs of the operating system.
    pub os_features: Vec<String>,
}
