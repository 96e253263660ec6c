//! Image layouts: the folder of the OCI image specification, and its archive.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Format, Image, Tool, digest_of, gnu_tar, media};
use crate::Sandbox;

/// What stands for a blob.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: usize,
    /// The architecture, in an index.
    pub architecture: Option<String>,
}

impl Descriptor {
    /// As it stands in a manifest.
    pub fn json(&self) -> Value {
        let mut value =
            json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size });
        if let Some(architecture) = &self.architecture {
            value["platform"] = json!({ "architecture": architecture, "os": "linux" });
        }
        value
    }
}

/// An image layout in the making.
pub struct Layout {
    folder: PathBuf,
    tags: BTreeMap<String, Descriptor>,
}

impl Layout {
    /// An empty one.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let layout = Self { folder, tags: BTreeMap::new() };
        layout.write_index()?;
        Ok(layout)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How skopeo calls an image in it.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.folder.display())
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        self.folder.join("blobs/sha256").join(hex)
    }

    /// A blob.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = digest_of(bytes);
        fs::write(self.blob(&digest), bytes)?;
        let media_type = media_type.to_owned();
        Ok(Descriptor { media_type, digest, size: bytes.len(), architecture: None })
    }

    /// All blobs of an image; that of the manifest is the answer.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn add(&self, image: &Image) -> Result<Descriptor> {
        let mut layers = Vec::new();
        for (tar, compression) in &image.layers {
            let bytes = compression.compress(tar)?;
            layers.push(self.add_blob(&image.layer_type(*compression), &bytes)?.json());
        }
        let (manifest, config) = match image.docker {
            false => (media::MANIFEST, media::CONFIG),
            true => (media::DOCKER_MANIFEST, media::DOCKER_CONFIG),
        };
        let config = self.add_blob(config, &image.config_bytes()?)?.json();
        let bytes = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": manifest, "config": config, "layers": layers,
        }))?;
        let mut added = self.add_blob(manifest, &bytes)?;
        added.architecture = Some(image.architecture.clone());
        Ok(added)
    }

    /// What a manifest says of its config and its layers, in this order.
    ///
    /// # Errors
    /// It is not there, or no manifest.
    pub fn parts(&self, manifest: &Descriptor) -> Result<Vec<String>> {
        let value: Value = serde_json::from_slice(&fs::read(self.blob(&manifest.digest))?)?;
        let layers = value["layers"].as_array().context("no layers")?;
        let all = std::iter::once(&value["config"]).chain(layers);
        all.map(|part| Ok(part["digest"].as_str().context("no digest")?.to_owned())).collect()
    }

    /// An index of manifests.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add_index(&self, manifests: &[Descriptor]) -> Result<Descriptor> {
        let manifests: Vec<_> = manifests.iter().map(Descriptor::json).collect();
        let bytes = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests,
        }))?;
        self.add_blob(media::INDEX, &bytes)
    }

    /// Gives a manifest or an index a name.
    ///
    /// # Errors
    /// The index of the layout cannot be written.
    pub fn tag(&mut self, tag: &str, descriptor: &Descriptor) -> Result<()> {
        self.tags.insert(tag.into(), descriptor.clone());
        self.write_index()
    }

    /// The layout with this one image, and its manifest.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn of(folder: impl Into<PathBuf>, tag: &str, image: &Image) -> Result<(Self, Descriptor)> {
        let mut layout = Self::new(folder)?;
        let manifest = layout.add(image)?;
        layout.tag(tag, &manifest)?;
        Ok((layout, manifest))
    }

    /// Copies what has this tag into a registry, with all platforms.
    ///
    /// # Errors
    /// skopeo fails.
    pub async fn push(&self, sandbox: &Sandbox, tag: &str, target: &str) -> Result<()> {
        let target = format!("docker://{target}");
        Tool::skopeo(sandbox).copy(&["--all"], &self.reference(tag), &target).await
    }

    /// Writes the layout as a tar file beside its folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn archive(&self) -> Result<PathBuf> {
        let path = self.folder.with_extension("tar");
        fs::write(&path, gnu_tar(&self.folder, Format::Gnu)?).context("write the archive")?;
        Ok(path)
    }

    fn write_index(&self) -> Result<()> {
        let manifests: Vec<_> = self
            .tags
            .iter()
            .map(|(tag, descriptor)| {
                let mut value = descriptor.json();
                value["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
                value
            })
            .collect();
        let index = json!({
            "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests,
        });
        Ok(fs::write(self.folder.join("index.json"), serde_json::to_vec(&index)?)?)
    }
}
