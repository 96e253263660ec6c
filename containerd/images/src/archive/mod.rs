//! Images in archives: what `docker save`, `skopeo copy oci-archive:` and others
//! write.
//!
//! ```text
//! OCI layout                          docker-archive
//! ├──oci-layout                       ├──manifest.json    files of each image
//! ├──index.json   which images        ├──<digest>.json    configurations
//! └──blobs/sha256/<digest>            └──<id>/layer.tar   or other names
//! ```

pub mod export;
pub mod import;
pub mod names;
mod tar;
#[cfg(test)]
mod tests;

/// Name of an image in the annotations of its descriptor in an index, as
/// containerd knows it.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

/// The file that says that it is an OCI layout.
const LAYOUT_FILE: &str = "oci-layout";

/// What such a file has in it.
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The index of the images of an OCI layout.
const INDEX_FILE: &str = "index.json";

/// The list of images of a docker-archive.
const MANIFEST_FILE: &str = "manifest.json";
