//! From the store into an archive: an OCI layout that old versions of Docker can
//! read, too. The same images always make the same archive.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tar::{EntryType, Header};
use tokio_util::sync::CancellationToken;

use super::{
    ANNOTATION_IMAGE_NAME, INDEX_FILE, LAYOUT, LAYOUT_FILE, MANIFEST_FILE,
    names::{familiar, reference_name},
};
use crate::{
    Descriptor, Digest, Hasher,
    fetch::absent,
    manifest::{Index, Manifest},
    media_type, origin,
    platform::Matcher,
    store::{ContentStore, Image},
    unpack::stopped,
    walk::{self, ANNOTATION_REF_NAME, Selection, Walk},
};

const BLOCK_BYTES: usize = 512;

/// Longest name that fits into a header.
const SHORT_NAME_BYTES: usize = 100;

/// Where an archive goes.
#[async_trait]
pub trait ByteSink: Send {
    /// Appends a piece.
    async fn write(&mut self, piece: Bytes) -> Result<()>;

    /// Nothing more will come.
    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What is needed to export.
pub struct Export<'a> {
    /// Where content is.
    pub content: &'a dyn ContentStore,
    /// Which manifests of an index are exported, and which one Docker sees.
    pub platforms: &'a Matcher,
    /// Exports the others as well.
    pub all_platforms: bool,
    /// Leaves out what is not in the store: manifests, and what is below those
    /// of which a part is missing.
    pub skip_missing: bool,
    /// Leaves out the file that is for Docker.
    pub skip_docker_manifest: bool,
    /// Leaves out layers that must not be given on.
    pub skip_non_distributable: bool,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

/// A file of the archive.
enum File {
    Folder,
    Document(Vec<u8>),
    Blob(Box<Descriptor>),
}

/// What the archive will consist of.
#[derive(Default)]
struct Plan {
    /// By name, which is the order in which they are written.
    files: BTreeMap<String, File>,
    images: Vec<Descriptor>,
    /// Manifests that Docker sees, with their names.
    docker: Vec<(Descriptor, Vec<String>)>,
}

/// An image as Docker lists it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Export<'_> {
    /// Writes `images` as an archive.
    ///
    /// # Errors
    /// - `NotFound` when a part of an image is not in the store, or there is
    ///   none for the wanted platforms; nothing is written then;
    /// - `InvalidArgument` when one is no image;
    /// - `DataLoss` when the store has other content than it should have;
    /// - `Cancelled` when it was ended before its time; those of the sink and of
    ///   the store.
    pub async fn run(&self, images: &[Image], sink: &mut dyn ByteSink) -> Result<()> {
        let exported = self.stop.run_until_cancelled(async {
            let plan = self.plan(images).await?;
            for (name, file) in plan.files {
                self.write(&name, file, sink).await.context("export", &name)?;
            }
            sink.write(Bytes::from_static(&[0; 2 * BLOCK_BYTES])).await?;
            sink.finish().await
        });
        exported.await.unwrap_or_else(|| Err(stopped()))
    }

    async fn plan(&self, images: &[Image]) -> Result<Plan> {
        let mut plan = Plan::default();
        for image in images {
            self.image(&mut plan, image).await.context("export", &image.name)?;
        }
        let index = Index {
            media_type: media_type::OCI_INDEX.into(),
            artifact_type: None,
            manifests: std::mem::take(&mut plan.images),
            subject: None,
            annotations: BTreeMap::new(),
        };
        plan.files.insert(INDEX_FILE.into(), File::Document(index.to_json()?));
        plan.files.insert(LAYOUT_FILE.into(), File::Document(LAYOUT.into()));
        if !self.skip_docker_manifest && !plan.docker.is_empty() {
            let docker = self.docker_manifest(&plan.docker).await?;
            plan.files.insert(MANIFEST_FILE.into(), File::Document(docker));
        }
        Ok(plan)
    }

    /// Adds an image to what is written.
    async fn image(&self, plan: &mut Plan, image: &Image) -> Result<()> {
        let selection = match self.all_platforms {
            true => Selection::all(),
            false => Selection::platforms(self.platforms.clone()),
        };
        let walk = self.walk(&image.target, &selection).await?;
        let mut manifests: Vec<_> = walk
            .documents
            .iter()
            // Docker is not shown one of which parts are missing.
            .filter(|(_, below)| !below.is_empty())
            .map(|(document, _)| document)
            .filter(|document| media_type::is_manifest(&document.media_type))
            .filter(|document| match &document.platform {
                Some(platform) => self.platforms.matches(platform),
                None => true,
            })
            .collect();
        manifests.sort_by(|a, b| match (&a.platform, &b.platform) {
            (Some(a), Some(b)) => self.platforms.compare(a, b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        });
        let Some(chosen) = manifests.first() else { return Err(walk::no_match(&image.target)) };
        match plan.docker.iter_mut().find(|(manifest, _)| manifest.digest == chosen.digest) {
            Some((_, names)) => names.push(image.name.clone()),
            None => plan.docker.push(((*chosen).clone(), vec![image.name.clone()])),
        }
        plan.images.push(self.described(image).await?);
        let documents = walk.documents.into_iter().map(|(document, _)| document);
        for part in documents.chain(walk.blobs) {
            self.part(plan, part).await?;
        }
        Ok(())
    }

    /// A walk over what is to be exported.
    async fn walk(&self, root: &Descriptor, selection: &Selection) -> Result<Walk> {
        let mut walk = Walk::new(root)?;
        loop {
            let level = walk.level();
            if level.is_empty() {
                return Ok(walk);
            }
            for step in level {
                let document = &step.descriptor;
                let is_root = document.digest == root.digest;
                if self.skip_missing && !is_root && !self.is_there(document).await? {
                    continue;
                }
                let below = walk::children(self.content, document).await?;
                let below = selection.select(document, below)?;
                let is_manifest = media_type::is_manifest(&document.media_type);
                let whole = !is_manifest || !self.skip_missing || self.are_there(&below).await?;
                walk.found(&step, if whole { below } else { Vec::new() })?;
            }
        }
    }

    async fn is_there(&self, part: &Descriptor) -> Result<bool> {
        Ok(self.content.info(&part.digest).await?.is_some())
    }

    async fn are_there(&self, parts: &[Descriptor]) -> Result<bool> {
        for part in parts {
            if !self.is_there(part).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds a part of an image to what is written.
    async fn part(&self, plan: &mut Plan, part: Descriptor) -> Result<()> {
        if self.skip_non_distributable && media_type::is_non_distributable(&part.media_type) {
            return Ok(());
        }
        let info = self.content.info(&part.digest).await?;
        let size = info.ok_or_else(|| absent(&part.digest))?.size;
        if size != part.size {
            let Descriptor { digest, size: named, .. } = part;
            let text = format!("content {digest} has {size} bytes, not {named}");
            return Err(Error::precondition(text));
        }
        let algorithm = part.digest.algorithm().name();
        plan.files.insert("blobs/".into(), File::Folder);
        plan.files.insert(format!("blobs/{algorithm}/"), File::Folder);
        plan.files.insert(blob_name(&part.digest), File::Blob(Box::new(part)));
        Ok(())
    }

    /// An image as the archive's index describes it.
    async fn described(&self, image: &Image) -> Result<Descriptor> {
        let mut described = image.target.clone();
        let labels = self.content.info(&described.digest).await?.map(|info| info.labels);
        let sources =
            labels.unwrap_or_default().into_iter().filter(|(key, _)| origin::is_label(key));
        described.annotations.extend(sources);
        described.annotations.insert(ANNOTATION_IMAGE_NAME.into(), image.name.clone());
        described.annotations.insert(ANNOTATION_REF_NAME.into(), reference_name(&image.name));
        Ok(described)
    }

    async fn docker_manifest(&self, manifests: &[(Descriptor, Vec<String>)]) -> Result<Vec<u8>> {
        let mut images = Vec::new();
        for (descriptor, names) in manifests {
            let document = walk::read_document(self.content, descriptor).await?;
            let manifest = Manifest::parse(&document).context("parse", &descriptor.digest)?;
            let tags: BTreeSet<_> = names.iter().filter_map(|name| familiar(name)).collect();
            images.push(DockerImage {
                config: blob_name(&manifest.config.digest),
                repo_tags: tags.into_iter().collect(),
                layers: manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
            });
        }
        serde_json::to_vec(&images)
            .map_err(|e| Error::caused(ErrorKind::Internal, "write manifest.json", e))
    }

    async fn write(&self, name: &str, file: File, sink: &mut dyn ByteSink) -> Result<()> {
        match file {
            File::Folder => sink.write(header(name, EntryType::Directory, 0o755, 0)?).await,
            File::Document(document) => {
                let size = document.len() as u64;
                sink.write(header(name, EntryType::Regular, 0o644, size)?).await?;
                sink.write(document.into()).await?;
                pad(size, sink).await
            }
            File::Blob(blob) => {
                sink.write(header(name, EntryType::Regular, 0o444, blob.size)?).await?;
                self.blob(&blob, sink).await?;
                pad(blob.size, sink).await
            }
        }
    }

    /// Copies a blob, and checks on the way that it is what it should be.
    async fn blob(&self, blob: &Descriptor, sink: &mut dyn ByteSink) -> Result<()> {
        let mut reader = self.content.read(&blob.digest, 0).await?;
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut left = blob.size;
        while let Some(piece) = reader.next().await? {
            hasher.update(&piece);
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| other(blob))?;
            sink.write(piece).await?;
        }
        match left == 0 && hasher.digest() == blob.digest {
            true => Ok(()),
            false => Err(other(blob)),
        }
    }
}

/// Where a blob is in an archive.
fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn header(name: &str, kind: EntryType, mode: u32, size: u64) -> Result<Bytes> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let mut blocks = Vec::new();
    let short = match name.len() > SHORT_NAME_BYTES {
        true => {
            blocks.extend(long_name(name)?);
            &name[..SHORT_NAME_BYTES]
        }
        false => name,
    };
    header.set_path(short).context("name", short)?;
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    Ok(blocks.into())
}

/// What goes before an entry whose name does not fit into its header.
fn long_name(name: &str) -> Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_path("././@LongLink").context("name", name)?;
    header.set_size(name.len() as u64 + 1);
    header.set_mode(0);
    header.set_cksum();
    let mut blocks = header.as_bytes().to_vec();
    blocks.extend_from_slice(name.as_bytes());
    blocks.push(0);
    blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
    Ok(blocks)
}

/// Fills up the last block.
async fn pad(size: u64, sink: &mut dyn ByteSink) -> Result<()> {
    static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    match usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default() {
        0 => Ok(()),
        used => sink.write(Bytes::from_static(&ZEROS[used..])).await,
    }
}

fn other(blob: &Descriptor) -> Error {
    Error::new(ErrorKind::DataLoss, format!("the store has something else for {}", blob.digest))
}
