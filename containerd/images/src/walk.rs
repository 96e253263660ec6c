//! The tree of an image: an index has manifests, a manifest has a configuration
//! and layers.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::{
    Descriptor, Digest,
    manifest::{self, DOCUMENT_MAX_BYTES},
    media_type,
    platform::Matcher,
    store::{ContentReader, ContentStore},
};

/// How deep an index may lie in indexes.
const MAX_DEPTH: usize = 8;

/// How many parts an image may have: 100 platforms with 100 layers each.
const MAX_PARTS: usize = 10_000;

/// A part of another name's tag (OCI image specification, "Pre-Defined
/// Annotation Keys").
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What content is called while it is moved. Go's clients use the same names
/// (containerd, `MakeRefKey` in `core/remotes`), so that each goes on where the
/// other was cut off.
pub fn reference_key(descriptor: &Descriptor) -> String {
    let kind = match descriptor.media_type.as_str() {
        other if media_type::is_manifest(other) => "manifest",
        other if media_type::is_index(other) => "index",
        other if media_type::is_layer(other) => "layer",
        other if media_type::is_known_config(other) => "config",
        "application/vnd.in-toto+json" => "attestation",
        _ => "unknown",
    };
    match descriptor.annotations.get(ANNOTATION_REF_NAME) {
        Some(name) => format!("{kind}-{name}@{}", descriptor.digest),
        None => format!("{kind}-{}", descriptor.digest),
    }
}

/// Labels that keep `children` as long as their parent is kept (containerd,
/// `ChildGCLabels` in `core/images`).
pub fn child_labels(children: &[Descriptor]) -> BTreeMap<String, String> {
    const PREFIX: &str = "containerd.io/gc.ref.content.";
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut labels = BTreeMap::new();
    for child in children {
        let group = match child.media_type.as_str() {
            other if media_type::is_known_config(other) => "config",
            other if media_type::is_manifest(other) => "m.",
            other if media_type::is_layer(other) => "l.",
            _ => "",
        };
        let count = counts.entry(group).or_default();
        let key = match (group, *count) {
            ("config", 0) => format!("{PREFIX}config"),
            (group, number) => format!("{PREFIX}{group}{number}"),
        };
        *count += 1;
        labels.insert(key, child.digest.to_string());
    }
    labels
}

/// Whether content has others below it.
pub fn is_document(descriptor: &Descriptor) -> bool {
    media_type::is_index(&descriptor.media_type) || media_type::is_manifest(&descriptor.media_type)
}

/// Reads a manifest, index or configuration.
///
/// # Errors
/// `NotFound` when it is not there; `ResourceExhausted` when it is too large
/// to be one; `FailedPrecondition` when it is not as long as it should be.
pub async fn read_document(content: &dyn ContentStore, descriptor: &Descriptor) -> Result<Bytes> {
    check_size(descriptor)?;
    let mut reader = content.read(&descriptor.digest, 0).await?;
    read_at_most(&mut *reader, descriptor).await.context("read", &descriptor.digest)
}

/// # Errors
/// `ResourceExhausted` when it is too large to be read as a whole.
pub(crate) fn check_size(descriptor: &Descriptor) -> Result<()> {
    if descriptor.size <= DOCUMENT_MAX_BYTES {
        return Ok(());
    }
    let Descriptor { media_type, digest, size, .. } = descriptor;
    let text = format!("{media_type} {digest} has {size} bytes, {DOCUMENT_MAX_BYTES} are allowed");
    Err(Error::new(ErrorKind::ResourceExhausted, text))
}

async fn read_at_most(reader: &mut dyn ContentReader, descriptor: &Descriptor) -> Result<Bytes> {
    let mut document = Vec::new();
    while let Some(piece) = reader.next().await? {
        document.extend_from_slice(&piece);
        if document.len() as u64 > descriptor.size {
            break;
        }
    }
    if document.len() as u64 != descriptor.size {
        let text = format!("it does not have the {} bytes that it should", descriptor.size);
        return Err(Error::precondition(text));
    }
    Ok(document.into())
}

/// What is below an index or manifest in the store; nothing for other content.
///
/// # Errors
/// As [`read_document`] and [`manifest::children`].
pub async fn children(
    content: &dyn ContentStore,
    descriptor: &Descriptor,
) -> Result<Vec<Descriptor>> {
    if !is_document(descriptor) {
        return Ok(Vec::new());
    }
    let document = read_document(content, descriptor).await?;
    manifest::children(&descriptor.media_type, &document).context("parse", &descriptor.digest)
}

/// What of an image counts.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Manifests of these platforms, and those that do not say for which they
    /// are; all if there is none.
    pub platforms: Option<Matcher>,
    /// Manifests and configurations of the others too, but not their layers.
    pub all_metadata: bool,
    /// How many manifests of an index, the best ones; 0 is all.
    pub manifest_limit: usize,
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// What is made for one of these platforms.
    pub fn platforms(platforms: Matcher) -> Self {
        Self { platforms: Some(platforms), ..Self::default() }
    }

    /// Which of the `children` of `parent` count.
    ///
    /// # Errors
    /// `NotFound` when the number is limited and none is left.
    pub fn select(
        &self,
        parent: &Descriptor,
        mut children: Vec<Descriptor>,
    ) -> Result<Vec<Descriptor>> {
        let Some(platforms) = &self.platforms else { return Ok(self.limit(parent, children)) };
        if media_type::is_index(&parent.media_type) {
            if !self.all_metadata {
                children.retain(|child| self.is_wanted(child));
            }
            if self.manifest_limit > 0 && !children.iter().any(|child| self.is_wanted(child)) {
                return Err(no_match(parent));
            }
            // Of equal ones the first counts, so the order stays.
            children.sort_by(|a, b| match (&a.platform, &b.platform) {
                (Some(a), Some(b)) => platforms.compare(a, b),
                (a, b) => a.is_none().cmp(&b.is_none()),
            });
            return Ok(self.limit(parent, children));
        }
        if !self.is_wanted(parent) {
            children.retain(|child| media_type::is_config(&child.media_type));
        }
        Ok(children)
    }

    /// Is it made for a wanted platform, or may be?
    fn is_wanted(&self, descriptor: &Descriptor) -> bool {
        match (&self.platforms, &descriptor.platform) {
            (Some(wanted), Some(platform)) => wanted.matches(platform),
            _ => true,
        }
    }

    fn limit(&self, parent: &Descriptor, mut children: Vec<Descriptor>) -> Vec<Descriptor> {
        if self.manifest_limit > 0 && media_type::is_index(&parent.media_type) {
            children.truncate(self.manifest_limit);
        }
        children
    }
}

pub(crate) fn no_match(index: &Descriptor) -> Error {
    Error::not_found(format!("manifest for the wanted platform in {}", index.digest))
}

/// A part of an image, and what it lies below.
#[derive(Clone, Debug)]
pub struct Step {
    /// The part.
    pub descriptor: Descriptor,
    /// The documents above it, from the top.
    above: Vec<Digest>,
}

/// A walk over an image, level by level, each part once. It reads nothing: that
/// is up to whoever walks.
#[derive(Debug)]
pub struct Walk {
    level: Vec<Step>,
    seen: HashSet<Digest>,
    /// Indexes and manifests, parents first, with the part of their children
    /// that counts.
    pub documents: Vec<(Descriptor, Vec<Descriptor>)>,
    /// Everything else, in the order in which it was found.
    pub blobs: Vec<Descriptor>,
}

impl Walk {
    /// A walk from `root`, which is an index or manifest.
    ///
    /// # Errors
    /// `InvalidArgument` when it is something else.
    pub fn new(root: &Descriptor) -> Result<Self> {
        if !is_document(root) {
            let text = format!("{:?} is no image: {}", root.media_type, root.digest);
            return Err(Error::invalid(text));
        }
        Ok(Self {
            level: vec![Step { descriptor: root.clone(), above: Vec::new() }],
            seen: HashSet::from([root.digest.clone()]),
            documents: Vec::new(),
            blobs: Vec::new(),
        })
    }

    /// The documents of the next level; none at the end. For each,
    /// [`Self::found`] is to be called, or it counts as empty.
    pub fn level(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.level)
    }

    /// What lies below a document.
    ///
    /// # Errors
    /// `InvalidArgument` when it lies below itself, too deep, or the image has
    /// too many parts.
    pub fn found(&mut self, step: &Step, children: Vec<Descriptor>) -> Result<()> {
        let Step { descriptor: parent, above } = step;
        let mut above = above.clone();
        above.push(parent.digest.clone());
        for child in &children {
            if above.contains(&child.digest) {
                return Err(Error::invalid(format!("{} lies below itself", child.digest)));
            }
            if !self.seen.insert(child.digest.clone()) {
                continue;
            }
            if self.seen.len() > MAX_PARTS {
                let text = format!("an image has more than {MAX_PARTS} parts");
                return Err(Error::invalid(text));
            }
            if !is_document(child) {
                self.blobs.push(child.clone());
            } else if above.len() < MAX_DEPTH {
                self.level.push(Step { descriptor: child.clone(), above: above.clone() });
            } else {
                let text = format!("{} lies deeper than {MAX_DEPTH} levels", child.digest);
                return Err(Error::invalid(text));
            }
        }
        self.documents.push((parent.clone(), children));
        Ok(())
    }

    /// Walks over what is in a store.
    ///
    /// # Errors
    /// As [`children`], [`Selection::select`] and [`Self::found`].
    pub async fn over(
        content: &dyn ContentStore,
        root: &Descriptor,
        selection: &Selection,
    ) -> Result<Self> {
        let mut walk = Self::new(root)?;
        loop {
            let level = walk.level();
            if level.is_empty() {
                return Ok(walk);
            }
            for step in level {
                let below = children(content, &step.descriptor).await?;
                walk.found(&step, selection.select(&step.descriptor, below)?)?;
            }
        }
    }

    /// Whether any manifest was found.
    pub fn has_manifest(&self) -> bool {
        self.documents.iter().any(|(found, _)| media_type::is_manifest(&found.media_type))
    }
}
