//! How descriptors and platforms are written in JSON (OCI image specification,
//! "Content Descriptors"). Content embedded in a descriptor (`data`) is not
//! read: it is fetched like all other content.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Descriptor, Digest, Platform};

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct DescriptorJson {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    urls: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = DescriptorJson::deserialize(deserializer)?;
        Ok(Self {
            media_type: json.media_type,
            digest: digest(&json.digest)?,
            size: u64::try_from(json.size)
                .map_err(|_| D::Error::custom(format!("negative size {}", json.size)))?,
            annotations: json.annotations.unwrap_or_default(),
            urls: json.urls.unwrap_or_default(),
            platform: json.platform,
            // Go writes an empty one where none is meant.
            artifact_type: json.artifact_type.filter(|sort| !sort.is_empty()),
        })
    }
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = DescriptorJson {
            media_type: self.media_type.clone(),
            digest: self.digest.to_string(),
            size: i64::try_from(self.size).map_err(serde::ser::Error::custom)?,
            urls: (!self.urls.is_empty()).then(|| self.urls.clone()),
            annotations: (!self.annotations.is_empty()).then(|| self.annotations.clone()),
            platform: self.platform.clone(),
            artifact_type: self.artifact_type.clone(),
        };
        json.serialize(serializer)
    }
}

/// A digest in a document.
pub(super) fn digest<E: serde::de::Error>(text: &str) -> Result<Digest, E> {
    Digest::parse(text).map_err(|error| E::custom(error.report()))
}

#[derive(Deserialize, Serialize)]
struct PlatformJson {
    architecture: Option<String>,
    os: Option<String>,
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    #[serde(rename = "os.features", skip_serializing_if = "Option::is_none")]
    os_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = PlatformJson::deserialize(deserializer)?;
        Ok(Self {
            os: json.os.unwrap_or_default(),
            architecture: json.architecture.unwrap_or_default(),
            variant: json.variant.unwrap_or_default(),
            os_version: json.os_version.unwrap_or_default(),
            os_features: json.os_features.unwrap_or_default(),
        })
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unless_empty = |text: &String| (!text.is_empty()).then(|| text.clone());
        let json = PlatformJson {
            architecture: Some(self.architecture.clone()),
            os: Some(self.os.clone()),
            os_version: unless_empty(&self.os_version),
            os_features: (!self.os_features.is_empty()).then(|| self.os_features.clone()),
            variant: unless_empty(&self.variant),
        };
        json.serialize(serializer)
    }
}

/// An index as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IndexJson<'a> {
    pub(super) schema_version: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<&'a str>,
    pub(super) manifests: &'a [Descriptor],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<&'a Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
}

/// A manifest as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestJson<'a> {
    pub(super) schema_version: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<&'a str>,
    pub(super) config: &'a Descriptor,
    pub(super) layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<&'a Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: &'a BTreeMap<String, String>,
}
