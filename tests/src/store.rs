//! What a daemon keeps of images, to compare before and after.

use std::collections::BTreeSet;

use anyhow::Result;
use containerd_api::services::{
    images::v1::ListImagesRequest, leases::v1::ListRequest, snapshots::v1::ListSnapshotsRequest,
};

use crate::{Api, content};

/// The names of everything of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// Names of images and the digests that they stand for.
    pub images: BTreeSet<(String, String)>,
    /// Digests.
    pub content: BTreeSet<String>,
    /// References that are written to.
    pub ingests: BTreeSet<String>,
    /// Keys of snapshots of one snapshotter.
    pub snapshots: BTreeSet<String>,
    /// Leases.
    pub leases: BTreeSet<String>,
}

impl Store {
    /// What is there now, with the snapshots of overlayfs.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn of(api: &Api) -> Result<Self> {
        Self::with_snapshotter(api, "overlayfs").await
    }

    /// What is there now.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn with_snapshotter(api: &Api, snapshotter: &str) -> Result<Self> {
        let images = api.images().list(ListImagesRequest::default()).await?.into_inner().images;
        let leases = api.leases().list(ListRequest::default()).await?.into_inner().leases;
        let digest = |target: Option<containerd_api::types::Descriptor>| {
            target.map(|target| target.digest).unwrap_or_default()
        };
        Ok(Self {
            images: images.into_iter().map(|i| (i.name, digest(i.target))).collect(),
            content: content::list(api, &[]).await?.into_iter().map(|found| found.0).collect(),
            ingests: content::statuses(api).await?.into_iter().map(|found| found.0).collect(),
            snapshots: snapshots(api, snapshotter).await?,
            leases: leases.into_iter().map(|lease| lease.id).collect(),
        })
    }
}

async fn snapshots(api: &Api, snapshotter: &str) -> Result<BTreeSet<String>> {
    let request = ListSnapshotsRequest { snapshotter: snapshotter.into(), ..Default::default() };
    let mut answers = api.snapshots().list(request).await?.into_inner();
    let mut found = BTreeSet::new();
    while let Some(answer) = answers.message().await? {
        found.extend(answer.info.into_iter().map(|info| info.name));
    }
    Ok(found)
}
