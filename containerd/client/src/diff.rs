//! Layers and filesystems: unpacking, and comparing.

use std::{collections::BTreeMap, time::SystemTime};

use containerd_api::{
    services::diff::v1::{ApplyRequest, DiffRequest, diff_client::DiffClient},
    types::{Descriptor, Mount},
};
use tonic::transport::Channel;

use crate::{Context, Error, Namespace, Result, RootMount};

/// What points to a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// What it is, such as `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
}

impl Layer {
    fn from_wire(wire: Descriptor) -> Self {
        let Descriptor { media_type, digest, size, .. } = wire;
        Self { media_type, digest, size: u64::try_from(size).unwrap_or_default() }
    }
}

/// A layer to be made.
#[derive(Clone, Debug, Default)]
pub struct NewLayer {
    /// What it shall be; empty for the daemon's choice, which is gzip.
    pub media_type: String,
    /// The reference that it is written to; may be empty.
    pub reference: String,
    /// Labels of the content.
    pub labels: BTreeMap<String, String>,
    /// No time in it is later.
    pub latest: Option<SystemTime>,
}

impl Namespace {
    /// What unpacks and makes layers for this namespace.
    pub fn diff(&self) -> Diff {
        Diff { namespace: self.clone() }
    }
}

/// Unpacks and makes layers.
#[derive(Clone, Debug)]
pub struct Diff {
    namespace: Namespace,
}

impl Diff {
    fn stub(&self) -> DiffClient<Channel> {
        DiffClient::new(self.namespace.client().channel())
    }

    /// Unpacks a layer of this namespace's content onto mounts. Answers what it
    /// is without its compression. With `sync`, the disk has all of it then.
    ///
    /// # Errors
    /// `NotFound` when there is no such content; `InvalidArgument` when it is no
    /// layer; `Unimplemented` when it is of an unknown type.
    pub async fn apply(
        &self,
        layer: &Layer,
        mounts: impl IntoIterator<Item = RootMount>,
        sync: bool,
    ) -> Result<Layer> {
        const ACTION: &str = "apply layer";
        let size = i64::try_from(layer.size)
            .map_err(|_| Error::invalid(format!("{} bytes are too many", layer.size)))?;
        let diff = Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size,
            ..Default::default()
        };
        let request = ApplyRequest {
            diff: Some(diff),
            mounts: mounts.into_iter().map(wire).collect(),
            payloads: BTreeMap::new(),
            sync_fs: sync,
        };
        let response = self.stub().apply(self.namespace.request(request)?).await;
        let applied = response.context(ACTION, &layer.digest)?.into_inner().applied;
        applied.map(Layer::from_wire).ok_or_else(|| Error::incomplete(ACTION, "descriptor"))
    }

    /// Makes the layer that `right` has more than `left`. It becomes content,
    /// which the lease of this handle's namespace holds, if it has one.
    ///
    /// # Errors
    /// `Unimplemented` when it cannot be of that type; `Unavailable` while
    /// somebody else writes to the reference.
    pub async fn diff(
        &self,
        left: impl IntoIterator<Item = RootMount>,
        right: impl IntoIterator<Item = RootMount>,
        layer: NewLayer,
    ) -> Result<Layer> {
        const ACTION: &str = "make layer";
        let request = DiffRequest {
            left: left.into_iter().map(wire).collect(),
            right: right.into_iter().map(wire).collect(),
            media_type: layer.media_type,
            r#ref: layer.reference,
            labels: layer.labels,
            source_date_epoch: layer.latest.map(Into::into),
        };
        let response = self.stub().diff(self.namespace.request(request)?).await;
        let diff = response.context(ACTION, "")?.into_inner().diff;
        diff.map(Layer::from_wire).ok_or_else(|| Error::incomplete(ACTION, "descriptor"))
    }
}

fn wire(mount: RootMount) -> Mount {
    let RootMount { kind, source, target, options } = mount;
    Mount { r#type: kind, source, target, options }
}
