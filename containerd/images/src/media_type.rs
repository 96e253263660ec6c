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
/// What CRIU has written of a container, as an archive (containerd,
/// `core/images/mediatypes.go`, also below).
pub const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The OCI configuration of a container, as the message `Any`.
pub const CHECKPOINT_CONFIG: &str =
    "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// The options that a checkpoint was made with, as the message `Any`.
pub const CHECKPOINT_OPTIONS: &str =
    "application/vnd.containerd.container.checkpoint.options.v1+proto";
/// The options of a container's runtime, as the message `Any`.
pub const CHECKPOINT_RUNTIME_OPTIONS: &str =
    "application/vnd.containerd.container.checkpoint.runtime.options+proto";

/// Docker's layer that must not be given on, not compressed.
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// [`DOCKER_FOREIGN`], compressed with gzip.
const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// A layer that must not be given on; `+gzip` or `+zstd` may be behind it.
const OCI_NON_DISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";

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
                    | DOCKER_FOREIGN
                    | DOCKER_FOREIGN_GZIP
            )
        )
}

/// Is it a configuration of either kind?
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Is it a configuration, or what checkpoints of containers have for one?
pub fn is_known_config(media_type: &str) -> bool {
    is_config(media_type) || matches!(media_type, CHECKPOINT | CHECKPOINT_CONFIG)
}

/// Is it a layer that must not be given on, such as those of Windows?
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// Is it one of Docker's?
pub fn is_docker(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.")
}

/// The OCI image specification's word for one of Docker's; others stay as they
/// are.
pub fn to_oci(media_type: &str) -> String {
    let oci = match media_type {
        DOCKER_MANIFEST_LIST => OCI_INDEX,
        DOCKER_MANIFEST => OCI_MANIFEST,
        DOCKER_CONFIG => OCI_CONFIG,
        DOCKER_LAYER => OCI_LAYER,
        DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
        DOCKER_LAYER_ZSTD => OCI_LAYER_ZSTD,
        DOCKER_FOREIGN => OCI_NON_DISTRIBUTABLE,
        DOCKER_FOREIGN_GZIP => return format!("{OCI_NON_DISTRIBUTABLE}+gzip"),
        other => other,
    };
    oci.to_owned()
}

/// What a compressed layer is without its compression; none for what is not
/// compressed, or is more than that, such as encrypted.
pub fn uncompressed(media_type: &str) -> Option<&'static str> {
    match media_type {
        DOCKER_LAYER_GZIP | DOCKER_LAYER_ZSTD => Some(DOCKER_LAYER),
        DOCKER_FOREIGN_GZIP => Some(DOCKER_FOREIGN),
        OCI_LAYER_GZIP | OCI_LAYER_ZSTD => Some(OCI_LAYER),
        other => match other.strip_prefix(OCI_NON_DISTRIBUTABLE) {
            Some("+gzip" | "+zstd") => Some(OCI_NON_DISTRIBUTABLE),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_has_a_word_for_most_things() {
        for docker in [
            DOCKER_MANIFEST_LIST,
            DOCKER_MANIFEST,
            DOCKER_CONFIG,
            DOCKER_LAYER,
            DOCKER_LAYER_GZIP,
            DOCKER_LAYER_ZSTD,
            DOCKER_FOREIGN,
            DOCKER_FOREIGN_GZIP,
        ] {
            let oci = to_oci(docker);
            assert!(is_docker(docker) && !is_docker(&oci), "{docker}: {oci}");
            assert_eq!(is_layer(docker), is_layer(&oci), "{docker}");
            assert_eq!(is_non_distributable(docker), is_non_distributable(&oci), "{docker}");
            assert_eq!(uncompressed(docker).map(to_oci).as_deref(), uncompressed(&oci));
            assert_eq!(to_oci(&oci), oci);
        }
        assert_eq!(to_oci("text/plain"), "text/plain");
    }

    #[test]
    fn only_compressed_layers_can_be_uncompressed() {
        assert_eq!(uncompressed(OCI_LAYER_ZSTD), Some(OCI_LAYER));
        let encrypted = format!("{OCI_LAYER_GZIP}+encrypted");
        for other in [OCI_LAYER, DOCKER_LAYER, OCI_CONFIG, &encrypted] {
            assert_eq!(uncompressed(other), None, "{other}");
        }
    }
}
