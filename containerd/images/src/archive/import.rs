//! From an archive into the store. The archive is read once, from its beginning
//! to its end, and its blobs go into the store as they come; which of them belong
//! together is often only said at the end.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use bytes::Bytes;
use serde::Deserialize;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ANNOTATION_IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, MANIFEST_FILE,
    names::reference_name,
    tar::{Entry, Kind, Reader},
};
use crate::{
    Algorithm, Descriptor, Digest, Hasher, Reference,
    compression::{self, Compression},
    manifest::{Config, DOCUMENT_MAX_BYTES, Index, Manifest},
    media_type,
    pipe::{self, Feed, Outlet, PIECE_BYTES},
    store::{ContentReader, ContentStore, TRIES, give_up},
    unique::unique,
    unpack::stopped,
    walk::{self, ANNOTATION_REF_NAME},
};

/// How many files an archive may have.
const MAX_FILES: usize = 100_000;

/// How much is read behind the end of the archive, so that whoever sends it is
/// not kept waiting: tar fills up its last record.
const MAX_TAIL_BYTES: u64 = 16 << 20;

/// Files of docker-archives that nobody needs.
const UNUSED: [&str; 3] = ["VERSION", "json", "repositories"];

/// What is needed to import.
pub struct Import<'a> {
    /// Where content goes.
    pub content: &'a dyn ContentStore,
    /// Compresses layers that are not, where the archive does not say what their
    /// digests are.
    pub compress: bool,
    /// Ends it before its time.
    pub stop: &'a CancellationToken,
}

/// What was in an archive.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The index of all images, in the store.
    pub index: Descriptor,
    /// The images, with the annotations that they have there.
    pub images: Vec<Descriptor>,
}

/// What comes out of an archive, in its order.
enum Part {
    Entry(Entry),
    Data(Bytes),
    /// The end of a file whose name does not say which digest it has.
    End(Digest),
}

/// What an archive consists of.
#[derive(Default)]
struct Contents {
    files: HashMap<String, Found>,
    /// Links with what they point to.
    links: BTreeMap<String, String>,
    layout: Option<Bytes>,
    index: Option<Bytes>,
    manifest: Option<Bytes>,
}

/// A file that is in the store.
#[derive(Clone)]
struct Found {
    digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// An image in the manifest of a docker-archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Import<'_> {
    /// Reads an archive: an OCI layout or a docker-archive, as it is or
    /// compressed with gzip or zstd.
    ///
    /// # Errors
    /// - `InvalidArgument` when it is no archive of images, or a malformed one;
    /// - `DataLoss` when it ends too early;
    /// - `FailedPrecondition` when a blob is not what its name says;
    /// - `Cancelled` when it was ended before its time; those of the reader and
    ///   of the store.
    ///
    /// Blobs that have come are in the store then, until they are collected.
    pub async fn run(&self, archive: Box<dyn ContentReader>) -> Result<Imported> {
        let reference = unique("import");
        let contents = pipe::through(archive, read_archive, |parts| async {
            let taken = self.stop.run_until_cancelled(self.take(parts, &reference)).await;
            taken.unwrap_or_else(|| Err(stopped()))
        });
        let contents = match contents.await {
            Ok(contents) => contents,
            Err(error) => {
                give_up(self.content, &reference).await;
                return Err(error).context("read", "the archive");
            }
        };
        match contents.layout {
            Some(_) => self.oci(&contents).await,
            None => self.docker(&contents).await,
        }
    }

    /// Takes what comes out of the archive.
    async fn take(&self, mut parts: mpsc::Receiver<Part>, reference: &str) -> Result<Contents> {
        let mut contents = Contents::default();
        let mut next = parts.recv().await;
        while let Some(part) = next {
            // What is left of a file is skipped.
            let Part::Entry(entry) = part else {
                next = parts.recv().await;
                continue;
            };
            if contents.files.len() + contents.links.len() >= MAX_FILES {
                return Err(Error::invalid(format!("more than {MAX_FILES} files")));
            }
            let name = entry.name;
            next = match entry.kind {
                Kind::File => {
                    let size = entry.size;
                    let mut file = File { parts: &mut parts, digest: None, next: None, size };
                    self.file(&mut contents, name.clone(), &mut file, reference)
                        .await
                        .context("take", format_args!("{name:?}"))?;
                    file.rest().await
                }
                kind => {
                    if let Some(target) = target(kind, &name, &entry.link)? {
                        contents.links.insert(name, target);
                    }
                    parts.recv().await
                }
            };
        }
        Ok(contents)
    }

    async fn file(
        &self,
        contents: &mut Contents,
        name: String,
        file: &mut File<'_>,
        reference: &str,
    ) -> Result<()> {
        let document = match name.as_str() {
            LAYOUT_FILE => &mut contents.layout,
            INDEX_FILE => &mut contents.index,
            MANIFEST_FILE => &mut contents.manifest,
            other if UNUSED.contains(&last_part(other)) => return Ok(()),
            _ => {
                let found = self.blob(blob_digest(&name)?, file, reference).await?;
                return match contents.files.insert(name, found.clone()) {
                    Some(old) if old.digest != found.digest => Err(twice()),
                    _ => Ok(()),
                };
            }
        };
        match document.replace(file.document().await?) {
            Some(_) => Err(twice()),
            None => Ok(()),
        }
    }

    /// Writes a file into the store.
    async fn blob(
        &self,
        expected: Option<Digest>,
        file: &mut File<'_>,
        reference: &str,
    ) -> Result<Found> {
        let size = file.size;
        let mut writer = match self.content.write(reference, size, expected.as_ref()).await {
            Ok(writer) => writer,
            Err(e) => return self.existing(e, expected, size).await,
        };
        if writer.offset() > 0 {
            writer.clear().await?;
        }
        while let Some(piece) = file.next().await {
            writer.write(piece).await?;
        }
        let digest = expected.or_else(|| file.digest.take());
        let Some(digest) = digest.filter(|_| writer.offset() == size) else {
            return Err(Error::new(ErrorKind::DataLoss, "the archive ends too early"));
        };
        match writer.commit(size, Some(&digest), BTreeMap::new()).await {
            Ok(digest) => Ok(Found { digest, size }),
            Err(e) => self.existing(e, Some(digest), size).await,
        }
    }

    /// Content that exists is as good as what was to be written.
    async fn existing(&self, error: Error, digest: Option<Digest>, size: u64) -> Result<Found> {
        let digest = match digest {
            Some(digest) if error.kind() == ErrorKind::AlreadyExists => digest,
            _ => return Err(error),
        };
        match self.content.info(&digest).await? {
            Some(info) if info.size == size => Ok(Found { digest, size }),
            _ => Err(Error::precondition(format!("{digest} does not have {size} bytes"))),
        }
    }

    async fn oci(&self, contents: &Contents) -> Result<Imported> {
        let layout = contents.layout.as_deref().unwrap_or_default();
        let layout: Layout = json(LAYOUT_FILE, layout)?;
        if layout.image_layout_version != "1.0.0" {
            let version = layout.image_layout_version;
            return Err(Error::invalid(format!("OCI layout of version {version:?}")));
        }
        let Some(index) = &contents.index else {
            return Err(Error::invalid("OCI layout without index.json"));
        };
        let images = Index::parse(index).context("parse", INDEX_FILE)?.manifests;
        let index = self.document(media_type::OCI_INDEX, index.clone()).await?;
        Ok(Imported { index, images })
    }

    async fn docker(&self, contents: &Contents) -> Result<Imported> {
        let Some(manifest) = &contents.manifest else {
            return Err(Error::invalid("neither an OCI layout nor a docker-archive"));
        };
        let listed: Vec<DockerImage> = json(MANIFEST_FILE, manifest)?;
        let mut images = Vec::new();
        for image in listed {
            let described = self.docker_image(contents, &image).await?;
            let tags = image.repo_tags.unwrap_or_default();
            if tags.is_empty() {
                images.push(described.clone());
            }
            for tag in tags {
                let name = Reference::parse_short(&tag)?.or_latest().to_string();
                let mut named = described.clone();
                named.annotations.insert(ANNOTATION_REF_NAME.into(), reference_name(&name));
                named.annotations.insert(ANNOTATION_IMAGE_NAME.into(), name);
                images.push(named);
            }
        }
        let index = Index {
            media_type: media_type::OCI_INDEX.into(),
            artifact_type: None,
            manifests: images.clone(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let index = self.document(media_type::OCI_INDEX, index.to_json()?.into()).await?;
        Ok(Imported { index, images })
    }

    /// Makes the manifest of an image.
    async fn docker_image(&self, contents: &Contents, image: &DockerImage) -> Result<Descriptor> {
        let Found { digest, size } = contents.find(&image.config)?;
        let config = Descriptor::new(media_type::DOCKER_CONFIG, digest, size);
        let mut layers = Vec::new();
        for name in image.layers.iter().flatten() {
            let found = contents.find(name)?;
            layers.push(self.docker_layer(found).await.context("take layer", name)?);
        }
        let document = walk::read_document(self.content, &config).await?;
        let platform = Config::parse(&document).context("parse", &image.config)?.platform;
        let manifest = Manifest {
            media_type: media_type::DOCKER_MANIFEST.into(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let manifest = manifest.to_json()?.into();
        let mut described = self.document(media_type::DOCKER_MANIFEST, manifest).await?;
        described.platform = Some(platform);
        Ok(described)
    }

    /// Finds out how a layer is compressed, and compresses it if that is wanted.
    async fn docker_layer(&self, found: Found) -> Result<Descriptor> {
        let Found { digest, size } = found;
        let kind = match compression::detect(self.content, &digest).await? {
            Compression::None if self.compress => {
                let gzip = Compression::Gzip;
                return compression::convert(self.content, &digest, gzip, self.stop).await.map(
                    |(digest, size)| Descriptor::new(media_type::DOCKER_LAYER_GZIP, digest, size),
                );
            }
            Compression::None => media_type::DOCKER_LAYER,
            Compression::Gzip => media_type::DOCKER_LAYER_GZIP,
            Compression::Zstd => media_type::DOCKER_LAYER_ZSTD,
        };
        Ok(Descriptor::new(kind, digest, size))
    }

    /// Writes a document into the store.
    async fn document(&self, kind: &str, document: Bytes) -> Result<Descriptor> {
        write_document(self.content, kind, document, BTreeMap::new()).await
    }
}

/// Writes a document into the store; one that is there is as good, and gets the
/// labels too.
///
/// # Errors
/// Those of the store. Nothing is left then, if the store can still be told so.
pub async fn write_document(
    content: &dyn ContentStore,
    kind: &str,
    document: Bytes,
    labels: BTreeMap<String, String>,
) -> Result<Descriptor> {
    let digest = Digest::of(Algorithm::Sha256, &document);
    let described = Descriptor::new(kind, digest.clone(), document.len() as u64);
    for _ in 1..TRIES {
        match write_once(content, &digest, document.clone(), &labels).await {
            // The same was there, and went before it could be kept.
            Err(e) if e.kind() == ErrorKind::Aborted => {}
            written => return written.map(|()| described),
        }
    }
    write_once(content, &digest, document, &labels).await.map(|()| described)
}

async fn write_once(
    content: &dyn ContentStore,
    digest: &Digest,
    document: Bytes,
    labels: &BTreeMap<String, String>,
) -> Result<()> {
    let size = document.len() as u64;
    let reference = format!("{}-{digest}", unique("write"));
    let written = async {
        let mut writer = content.write(&reference, size, Some(digest)).await?;
        if writer.offset() > 0 {
            // Another namespace has it.
            writer.clear().await?;
        }
        writer.write(document).await?;
        writer.commit(size, Some(digest), labels.clone()).await.map(drop)
    };
    match written.await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => match labels.is_empty() {
            true => Ok(()),
            false => content.set_labels(digest, labels.clone()).await,
        },
        Err(e) => {
            give_up(content, &reference).await;
            Err(e)
        }
        Ok(()) => Ok(()),
    }
}

/// The content of a file that is coming.
struct File<'a> {
    parts: &'a mut mpsc::Receiver<Part>,
    /// Its digest, once all of it has come, and if its name does not say it.
    digest: Option<Digest>,
    /// What came instead of more content.
    next: Option<Part>,
    size: u64,
}

impl File<'_> {
    async fn next(&mut self) -> Option<Bytes> {
        if self.next.is_some() {
            return None;
        }
        loop {
            match self.parts.recv().await? {
                Part::Data(piece) => return Some(piece),
                Part::End(digest) => self.digest = Some(digest),
                entry @ Part::Entry(_) => {
                    self.next = Some(entry);
                    return None;
                }
            }
        }
    }

    /// All of it, to be held in memory.
    async fn document(&mut self) -> Result<Bytes> {
        if self.size > DOCUMENT_MAX_BYTES {
            let text = format!("{} bytes, {DOCUMENT_MAX_BYTES} are allowed", self.size);
            return Err(Error::new(ErrorKind::ResourceExhausted, text));
        }
        let mut document = Vec::new();
        while let Some(piece) = self.next().await {
            document.extend_from_slice(&piece);
        }
        Ok(document.into())
    }

    /// Skips what is left; answers what comes then.
    async fn rest(mut self) -> Option<Part> {
        while self.next().await.is_some() {}
        self.next
    }
}

impl Contents {
    /// A file, also by a link to it.
    fn find(&self, name: &str) -> Result<Found> {
        let mut name = clean(name)?;
        // Each step is another link, or they go in circles.
        for _ in 0..=self.links.len() {
            if let Some(found) = self.files.get(&name) {
                return Ok(found.clone());
            }
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        Err(Error::invalid(format!("there is no file {name:?} in the archive")))
    }
}

/// Reads the archive where that may block.
fn read_archive(feed: Feed, parts: Outlet<Part>) -> Result<()> {
    let mut reader = Reader::new(compression::reader(feed)?);
    while let Some(mut entry) = reader.next()? {
        entry.name = clean(&entry.name)?;
        let is_file = entry.kind == Kind::File;
        let mut hasher = match blob_digest(&entry.name)? {
            Some(_) => None,
            None => Some(Hasher::new(Algorithm::Sha256)),
        };
        parts.put(Part::Entry(entry))?;
        if !is_file {
            continue;
        }
        while let Some(piece) = next_piece(&mut reader)? {
            if let Some(hasher) = &mut hasher {
                hasher.update(&piece);
            }
            parts.put(Part::Data(piece))?;
        }
        if let Some(hasher) = hasher {
            parts.put(Part::End(hasher.digest()))?;
        }
    }
    reader.finish(MAX_TAIL_BYTES)
}

/// The next piece of an entry's content; none at its end.
fn next_piece<R: Read>(reader: &mut Reader<R>) -> Result<Option<Bytes>> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut length = 0;
    while length < piece.len() {
        match reader.read(&mut piece[length..])? {
            0 => break,
            read => length += read,
        }
    }
    piece.truncate(length);
    Ok((length > 0).then(|| piece.into()))
}

/// The digest of the file of that name in an OCI layout.
fn blob_digest(name: &str) -> Result<Option<Digest>> {
    let Some(blob) = name.strip_prefix("blobs/") else { return Ok(None) };
    let Some((algorithm, hex)) = blob.split_once('/') else { return Ok(None) };
    Digest::parse(&format!("{algorithm}:{hex}")).map(Some)
}

/// A path without detours.
///
/// # Errors
/// `InvalidArgument` when it leads out of the archive.
fn clean(path: &str) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_some() => {}
            ".." => return Err(Error::invalid(format!("{path:?} leads out of the archive"))),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// What a link points to.
fn target(kind: Kind, name: &str, link: &str) -> Result<Option<String>> {
    match kind {
        Kind::HardLink => clean(link).map(Some),
        // As docker save wrote them for layers that it had before.
        Kind::SymLink => match name.rsplit_once('/') {
            Some((folder, _)) if !link.starts_with('/') => clean(&format!("{folder}/{link}")),
            _ => clean(link),
        }
        .map(Some),
        Kind::File | Kind::Other => Ok(None),
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn twice() -> Error {
    Error::invalid("the archive has it twice")
}

fn json<'a, T: Deserialize<'a>>(what: &str, document: &'a [u8]) -> Result<T> {
    serde_json::from_slice(document)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, format!("parse {what}"), e))
}
