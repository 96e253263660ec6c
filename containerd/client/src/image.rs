//! Images: names for content that containers are made from.

use std::{collections::BTreeMap, time::SystemTime};

use containerd_api::{services::images::v1::Image as Wire, types::Descriptor as WireDescriptor};
use containerd_images::{Descriptor, Digest, store};

use crate::{Error, ErrorKind, Result, time};

/// A name for content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Most often a reference such as `docker.io/library/redis:7`.
    pub name: String,
    /// Index or manifest that it stands for.
    pub target: Descriptor,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When it was last changed.
    pub updated_at: Option<SystemTime>,
}

impl Image {
    /// An image to be made.
    pub fn new(name: impl Into<String>, target: Descriptor) -> Self {
        let labels = BTreeMap::new();
        Self { name: name.into(), target, labels, created_at: None, updated_at: None }
    }

    pub(crate) fn from_wire(action: &str, wire: Option<Wire>) -> Result<Self> {
        let wire = wire.ok_or_else(|| Error::incomplete(action, "image"))?;
        let target = wire.target.ok_or_else(|| Error::incomplete(action, "target"))?;
        Ok(Self {
            target: descriptor_from_wire(target)?,
            name: wire.name,
            labels: wire.labels,
            created_at: time::from_wire(wire.created_at),
            updated_at: time::from_wire(wire.updated_at),
        })
    }

    pub(crate) fn into_wire(self) -> Result<Wire> {
        Ok(Wire {
            name: self.name,
            labels: self.labels,
            target: Some(descriptor_to_wire(self.target)?),
            ..Wire::default()
        })
    }
}

impl From<store::Image> for Image {
    fn from(image: store::Image) -> Self {
        Self { labels: image.labels, ..Self::new(image.name, image.target) }
    }
}

impl From<Image> for store::Image {
    fn from(image: Image) -> Self {
        Self { name: image.name, target: image.target, labels: image.labels }
    }
}

/// A descriptor as the wire has it; URLs and platform have no place there.
pub(crate) fn descriptor_to_wire(descriptor: Descriptor) -> Result<WireDescriptor> {
    let Descriptor { media_type, digest, size, annotations, .. } = descriptor;
    let bytes = i64::try_from(size)
        .map_err(|_| Error::invalid(format!("{digest} of {size} bytes is too long")))?;
    Ok(WireDescriptor { media_type, digest: digest.to_string(), size: bytes, annotations })
}

/// A descriptor that the daemon sent.
pub(crate) fn descriptor_from_wire(wire: WireDescriptor) -> Result<Descriptor> {
    let broken = |source| Error::caused(ErrorKind::DataLoss, "read descriptor", source);
    let digest = Digest::parse(&wire.digest).map_err(broken)?;
    let size = u64::try_from(wire.size)
        .map_err(|_| Error::new(ErrorKind::DataLoss, format!("{digest} of negative size")))?;
    Ok(Descriptor {
        annotations: wire.annotations,
        ..Descriptor::new(wire.media_type, digest, size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_targets_are_refused() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let wire = |digest: &str, size| WireDescriptor {
            digest: digest.into(),
            size,
            ..WireDescriptor::default()
        };
        assert_eq!(descriptor_from_wire(wire(&digest, 7)).unwrap().size, 7);
        for broken in [wire(&digest, -1), wire("sha256:0", 7)] {
            let error = descriptor_from_wire(broken).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DataLoss);
        }
    }
}
