//! What somebody wants moved.

use std::collections::BTreeMap;

use containerd_images::{
    Descriptor, Platform, archive::names::NameRule, platform::Matcher, store, walk::Selection,
};
use shim_protocol::{Error, Result};

/// Where images of a platform are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackTo {
    /// The platform.
    pub platform: Platform,
    /// The snapshotter; empty for the default one.
    pub snapshotter: String,
}

/// Images of this daemon, as a source or destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// Name of the image; may be empty for an import.
    pub name: String,
    /// Labels that it gets.
    pub labels: BTreeMap<String, String>,
    /// What of an index counts; all if there is none.
    pub platforms: Vec<Platform>,
    /// Manifests and configurations of other platforms count too.
    pub all_metadata: bool,
    /// How many manifests of an index count; 0 is all.
    pub manifest_limit: usize,
    /// Further names.
    pub names: Vec<NameRule>,
    /// What is unpacked.
    pub unpacks: Vec<UnpackTo>,
}

/// How images are written to an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Which manifests of an index; the one for this machine if there is none.
    pub platforms: Vec<Platform>,
    /// All manifests.
    pub all_platforms: bool,
    /// Leaves out the file that is for Docker.
    pub skip_docker_manifest: bool,
    /// Leaves out layers that must not be given on.
    pub skip_non_distributable: bool,
}

impl ImageSpec {
    /// What of an image is fetched: the first platforms rather than others.
    pub(super) fn fetched(&self) -> Selection {
        Selection {
            platforms: (!self.platforms.is_empty()).then(|| Matcher::ordered(&self.platforms)),
            all_metadata: self.all_metadata,
            manifest_limit: self.manifest_limit,
        }
    }

    /// What of an image is pushed.
    pub(super) fn pushed(&self) -> Selection {
        match self.platforms.is_empty() {
            true => Selection::all(),
            false => Selection::platforms(Matcher::any(&self.platforms)),
        }
    }

    /// The names that the image `target` gets, with their labels.
    ///
    /// # Errors
    /// `NotFound` when there is no name for it.
    pub(super) fn images(&self, target: &Descriptor, now: &str) -> Result<Vec<store::Image>> {
        let further = containerd_images::archive::names::additional(target, &self.names);
        let first = (!self.name.is_empty()).then(|| self.image(target, self.name.clone()));
        let further = further.into_iter().map(|name| self.further(target, name, now));
        let images: Vec<_> = first.into_iter().chain(further).collect();
        match images.is_empty() {
            true => Err(Error::not_found(format!("a name for image {}", target.digest))),
            false => Ok(images),
        }
    }

    /// The names that an image gets which an archive describes.
    pub(super) fn annotated(&self, target: &Descriptor, now: &str) -> Vec<store::Image> {
        let names = containerd_images::archive::names::annotated(target, &self.names);
        names.into_iter().map(|name| self.further(target, name, now)).collect()
    }

    fn image(&self, target: &Descriptor, name: String) -> store::Image {
        store::Image { name, target: target.clone(), labels: self.labels.clone() }
    }

    /// An image beside the one with the name that was asked for: it goes with
    /// that one (containerd, `extraRefLabels` in `core/transfer/image`).
    fn further(&self, target: &Descriptor, name: String, now: &str) -> store::Image {
        let mut image = self.image(target, name);
        if !self.name.is_empty() {
            image.labels.insert("containerd.io/gc.bref.image".into(), self.name.clone());
            image.labels.insert("containerd.io/gc.expire".into(), now.to_owned());
        }
        image
    }
}
