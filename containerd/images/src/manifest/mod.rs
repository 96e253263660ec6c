//! Indexes and manifests: the documents that an image's other content hangs on
//! (OCI image specification, "Image Index" and "Image Manifest"; Docker's are
//! the same in what counts here).
//!
//! They come from strangers. They are read as what their media type says, and
//! refused when they are, or also are, something else: otherwise one digest
//! could stand for two images.

mod config;
mod json;

use std::collections::BTreeMap;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use shim_protocol::{Error, ErrorKind, Result};

use crate::{Algorithm, Descriptor, Digest, media_type};

pub use config::{Config, History};

/// Largest index, manifest or configuration that is read, in bytes. One of 128
/// layers has some 30 KB.
pub const DOCUMENT_MAX_BYTES: u64 = 8 << 20;

/// Docker's first sort of manifest, which nobody makes any more.
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Manifests that belong together, such as those of one image for several
/// platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its media type as it says itself; may be empty.
    pub media_type: String,
    /// What sort of thing it describes, if that is not an image.
    pub artifact_type: Option<String>,
    /// The manifests, in their order.
    pub manifests: Vec<Descriptor>,
    /// What it is about.
    pub subject: Option<Descriptor>,
    /// Further facts about it.
    pub annotations: BTreeMap<String, String>,
}

/// What one image consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type as it says itself; may be empty.
    pub media_type: String,
    /// What sort of thing it describes, if that is not an image.
    pub artifact_type: Option<String>,
    /// How it is run; see [`Config`].
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// What it is about.
    pub subject: Option<Descriptor>,
    /// Further facts about it.
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, or is a manifest as well;
    /// `ResourceExhausted` when it has more than [`DOCUMENT_MAX_BYTES`];
    /// `Unimplemented` when it is of Docker's first sort.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let document: IndexDocument = read("index", bytes)?;
        let own_type = document.media_type.unwrap_or_default();
        if document.fs_layers.is_some() || is_schema1(&own_type) {
            return Err(schema1_error());
        }
        if document.config.is_some()
            || document.layers.is_some()
            || media_type::is_manifest(&own_type)
        {
            return Err(Error::invalid("an index was expected, and a manifest came"));
        }
        let Some(manifests) = document.manifests else {
            return Err(Error::invalid("index: it has no list of manifests"));
        };
        Ok(Self {
            media_type: own_type,
            artifact_type: document.artifact_type,
            manifests: manifests.unwrap_or_default(),
            subject: document.subject,
            annotations: document.annotations.unwrap_or_default(),
        })
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// `Internal` when it cannot be written, which does not happen.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        write(&json::IndexJson {
            schema_version: 2,
            media_type: &self.media_type,
            artifact_type: self.artifact_type.as_deref(),
            manifests: &self.manifests,
            subject: self.subject.as_ref(),
            annotations: &self.annotations,
        })
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// As for [`Index::parse`], with the parts exchanged.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let document: ManifestDocument = read("manifest", bytes)?;
        let own_type = document.media_type.unwrap_or_default();
        if document.fs_layers.is_some() || is_schema1(&own_type) {
            return Err(schema1_error());
        }
        if document.manifests.is_some() || media_type::is_index(&own_type) {
            return Err(Error::invalid("a manifest was expected, and an index came"));
        }
        let Some(config) = document.config else {
            return Err(Error::invalid("manifest: it has no configuration"));
        };
        Ok(Self {
            media_type: own_type,
            artifact_type: document.artifact_type,
            config,
            layers: document.layers.unwrap_or_default(),
            subject: document.subject,
            annotations: document.annotations.unwrap_or_default(),
        })
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// `Internal` when it cannot be written, which does not happen.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        write(&json::ManifestJson {
            schema_version: 2,
            media_type: &self.media_type,
            artifact_type: self.artifact_type.as_deref(),
            config: &self.config,
            layers: &self.layers,
            subject: self.subject.as_ref(),
            annotations: &self.annotations,
        })
    }
}

/// An index, with the parts that show that it is something else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexDocument {
    media_type: Option<String>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    manifests: Option<Option<Vec<Descriptor>>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    /// Only Docker's first sort has it.
    fs_layers: Option<IgnoredAny>,
}

/// A manifest, with the parts that show that it is something else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
    manifests: Option<IgnoredAny>,
    /// Only Docker's first sort has it.
    fs_layers: Option<IgnoredAny>,
}

/// Tells null, which is how Go writes an empty list, from what is missing.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Is it Docker's first sort of manifest?
pub(crate) fn is_schema1(media_type: &str) -> bool {
    matches!(media_type, DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED)
}

/// What is answered to Docker's first sort of manifest.
pub(crate) fn schema1_error() -> Error {
    Error::unimplemented("manifest: Docker schema 1 is not supported; build the image again")
}

/// What content of this media type points to: the manifests of an index, the
/// configuration and layers of a manifest, nothing otherwise.
///
/// # Errors
/// As for [`Index::parse`] and [`Manifest::parse`].
pub fn children(media_type: &str, bytes: &[u8]) -> Result<Vec<Descriptor>> {
    if media_type::is_index(media_type) {
        return Ok(Index::parse(bytes)?.manifests);
    }
    if media_type::is_manifest(media_type) {
        let manifest = Manifest::parse(bytes)?;
        let mut children = vec![manifest.config];
        children.extend(manifest.layers);
        return Ok(children);
    }
    if is_schema1(media_type) {
        return Err(schema1_error());
    }
    Ok(Vec::new())
}

/// Names of the stacks of layers, the lowest alone first and all of them last,
/// from the digests of the layers without their compression (OCI image
/// specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            Some(below) => Digest::of(Algorithm::Sha256, format!("{below} {diff_id}").as_bytes()),
            None => diff_id.clone(),
        };
        chain.push(id);
    }
    chain
}

/// Name of the stack of all layers; none without layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    chain_ids(diff_ids).pop()
}

/// Reads a document of bounded length.
fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    if bytes.len() as u64 > DOCUMENT_MAX_BYTES {
        let length = bytes.len();
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{what}: {length} bytes, and at most {DOCUMENT_MAX_BYTES} are read"),
        ));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Error::caused(ErrorKind::InvalidArgument, format!("read {what}"), error))
}

fn write(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|error| Error::caused(ErrorKind::Internal, "write JSON", error))
}

#[cfg(test)]
mod tests;
