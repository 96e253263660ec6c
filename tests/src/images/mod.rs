//! Images, made without a network. The same image has the same digest each time.

mod generate;
mod layer;
mod layout;
mod samples;
mod tools;

use anyhow::Result;
use serde_json::{Value, json};

pub use generate::{mixed, small_files};
pub use layer::{Compression, Extra, Format, Layer, TIME, digest_of, gnu_tar};
pub use layout::{Descriptor, Layout};
pub use samples::{
    CAPABILITY, busybox, everything, everything_and_more, layered, many_layers, noise,
};
pub use tools::{BUILDER_LABEL, Tool, buildah_image, umoci_image};

/// Media types of the OCI image specification, and of Docker's registry API.
pub mod media {
    /// An index of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer; `+gzip` or `+zstd` may follow.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker's word for an index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, which is compressed with gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// The platform that the tests run on, in the words of an image.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image in the making.
#[derive(Clone, Debug)]
pub struct Image {
    /// Tar files with what each is compressed with, the lowest first.
    pub layers: Vec<(Vec<u8>, Compression)>,
    /// The object `config` of the config.
    pub config: Value,
    /// What it is for.
    pub architecture: String,
    /// In Docker's media types.
    pub docker: bool,
}

impl Image {
    /// One that starts `command` by default, for this machine.
    pub fn new(command: &[&str]) -> Self {
        let config = json!({ "Cmd": command, "Env": ["PATH=/bin"] });
        Self { layers: Vec::new(), config, architecture: architecture().into(), docker: false }
    }

    /// With one more layer on top, compressed with gzip.
    #[must_use]
    pub fn layer(self, tar: Vec<u8>) -> Self {
        self.compressed(tar, Compression::Gzip)
    }

    /// With one more layer on top.
    #[must_use]
    pub fn compressed(mut self, tar: Vec<u8>, compression: Compression) -> Self {
        self.layers.push((tar, compression));
        self
    }

    /// With something else in the object `config`.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// For another machine.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.into();
        self
    }

    /// In Docker's media types.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// The media type of a layer.
    fn layer_type(&self, compression: Compression) -> String {
        match (compression, self.docker) {
            (Compression::None, false) => media::LAYER.into(),
            (Compression::Gzip, false) => format!("{}+gzip", media::LAYER),
            (Compression::Zstd, false) => format!("{}+zstd", media::LAYER),
            (Compression::None, true) => media::DOCKER_LAYER.trim_end_matches(".gzip").into(),
            (Compression::Gzip, true) => media::DOCKER_LAYER.into(),
            (Compression::Zstd, true) => media::DOCKER_LAYER.replace("gzip", "zstd"),
        }
    }

    /// The config.
    fn config_bytes(&self) -> Result<Vec<u8>> {
        let diff_ids: Vec<_> = self.layers.iter().map(|(tar, _)| digest_of(tar)).collect();
        Ok(serde_json::to_vec(&json!({
            "created": "2001-09-09T01:46:40Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "tests" })).collect::<Vec<_>>(),
        }))?)
    }
}
