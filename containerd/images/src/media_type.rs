//! Media types of what images consist of, and what they say.

/// An index: manifests, one for each platform.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A manifest: configuration and layers.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer; `+gzip` or `+zstd` behind it say how it is compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// [`OCI_LAYER`], compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// [`OCI_LAYER`], compressed with zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's index.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer, not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer, compressed with gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's layer, compressed with zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// Is it an index of either kind?
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_MANIFEST_LIST)
}

/// Is it a manifest of either kind?
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Is it a layer of any kind?
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || matches!(
            media_type.split('+').next(),
            Some(
                DOCKER_LAYER
                    | DOCKER_LAYER_GZIP
                    | DOCKER_LAYER_ZSTD
                    | "application/vnd.docker.image.rootfs.foreign.diff.tar"
                    | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            )
        )
}

/// Is it a configuration of either kind?
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Is it a configuration, or what checkpoints of containers have for one?
pub fn is_known_config(media_type: &str) -> bool {
    is_config(media_type)
        || matches!(
            media_type,
            "application/vnd.containerd.container.criu.checkpoint.criu.tar"
                | "application/vnd.containerd.container.checkpoint.config.v1+proto"
        )
}

/// Is it a layer that must not be given on, such as those of Windows?
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}
