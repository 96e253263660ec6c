use std::{collections::BTreeMap, io::Write};

use async_trait::async_trait;
use bytes::Bytes;
use shim_protocol::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::{
    ANNOTATION_IMAGE_NAME,
    export::{ByteSink, Export},
    import::{Import, Imported, write_document},
};
use crate::{
    Descriptor, Digest, Platform,
    adopt::Adopt,
    media_type::{self, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, OCI_MANIFEST},
    platform::Matcher,
    progress::Tracker,
    store::{ContentStore, Image},
    testing::{Memory, Pieces, Shelf, Snapshots, busy, digest, json, kind},
    unpack::Target,
    walk::{self, Selection},
};

/// An archive with these files; a name that ends with `->` and a target is a
/// link.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match name.split_once(" -> ") {
            Some((name, target)) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
            None => {
                header.set_size(content.len() as u64);
                // What the crate itself would refuse to write.
                let bytes = name.as_bytes();
                header.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
                header.set_cksum();
                builder.append(&header, *content).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

async fn import(memory: &Memory, archive: Vec<u8>) -> Result<Imported> {
    import_with(memory, archive, false).await
}

async fn import_with(memory: &Memory, archive: Vec<u8>, compress: bool) -> Result<Imported> {
    let stop = CancellationToken::new();
    let imported =
        Import { content: memory, compress, stop: &stop }.run(Pieces::boxed(archive, 1000)).await;
    assert!(memory.lock().ingests.is_empty());
    imported
}

async fn adopt(memory: &Memory, root: &Descriptor, selection: &Selection) -> Result<()> {
    let snapshots = Snapshots::new(memory);
    let target = Target { platforms: Matcher::ALL, unpacker: &snapshots };
    let adopt = Adopt {
        content: memory,
        selection,
        unpack: &[target],
        tracker: &Tracker::new("archive"),
        stop: &CancellationToken::new(),
    };
    adopt.run(root).await
}

/// An archive in memory.
#[derive(Default)]
struct Archive(Vec<u8>);

#[async_trait]
impl ByteSink for Archive {
    async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.0.extend_from_slice(&piece);
        Ok(())
    }
}

struct Exporting {
    platforms: Matcher,
    all_platforms: bool,
    skip_missing: bool,
}

async fn export(memory: &Memory, images: &[Image], how: &Exporting) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let export = Export {
        content: memory,
        platforms: &how.platforms,
        all_platforms: how.all_platforms,
        skip_missing: how.skip_missing,
        skip_docker_manifest: false,
        skip_non_distributable: false,
        stop: &CancellationToken::new(),
    };
    export.run(images, &mut archive).await.map(|()| archive.0)
}

fn amd64() -> Exporting {
    let platform =
        Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
    Exporting { platforms: Matcher::only(&platform), all_platforms: false, skip_missing: false }
}

fn image(name: &str, target: &Descriptor) -> Image {
    Image { name: name.into(), target: target.clone(), labels: BTreeMap::new() }
}

fn filled(shelf: &Shelf) -> Memory {
    let memory = Memory::default();
    for content in shelf.blobs.values() {
        memory.add("", content.clone());
    }
    memory
}

/// An OCI layout of the image `root` and everything on a shelf.
fn layout(shelf: &Shelf, root: &Descriptor) -> Vec<u8> {
    let mut described = json(root);
    described["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "1.0"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [described]}).to_string();
    let blobs: Vec<_> = shelf
        .blobs
        .iter()
        .map(|(digest, content)| (format!("./blobs/sha256/{}", digest.hex()), content.clone()))
        .collect();
    let mut files: Vec<(&str, &[u8])> =
        blobs.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    files.push(("index.json", index.as_bytes()));
    files.push(("./oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#));
    archive(&files)
}

#[tokio::test]
async fn an_export_is_imported_as_it_was() {
    let mut shelf = Shelf::new();
    let amd64_image = shelf.image_for("amd64", &["gz:one", "gz:two"]);
    let other = shelf.image_for("s390x", &["gz:three"]);
    let root = shelf.index(&[("amd64", &amd64_image), ("s390x", &other)]);
    let memory = filled(&shelf);
    let label = ("containerd.io/distribution.source.docker.io".to_owned(), "library/a".to_owned());
    memory.set_labels(&root.digest, BTreeMap::from([label.clone()])).await.unwrap();
    let all = Exporting { all_platforms: true, ..amd64() };
    let images = [image("docker.io/library/a:1", &root), image("docker.io/library/a:2", &root)];
    let exported = export(&memory, &images, &all).await.unwrap();
    assert_eq!(export(&memory, &images, &all).await.unwrap(), exported);

    let copy = Memory::default();
    let imported = import(&copy, exported).await.unwrap();
    let names = imported.images.iter().map(|image| &image.annotations[ANNOTATION_IMAGE_NAME]);
    assert_eq!(names.collect::<Vec<_>>(), ["docker.io/library/a:1", "docker.io/library/a:2"]);
    assert_eq!(imported.images[0].annotations[walk::ANNOTATION_REF_NAME], "1");
    assert_eq!(imported.images[0].annotations[&label.0], label.1);
    assert_eq!(imported.images[0].digest, root.digest);
    adopt(&copy, &imported.index, &Selection::all()).await.unwrap();
    for digest in shelf.blobs.keys() {
        assert_eq!(copy.get(digest), memory.get(digest));
    }
    let labels = copy.labels(&imported.index.digest);
    assert_eq!(labels["containerd.io/gc.ref.content.0"], root.digest.to_string());
    assert_eq!(copy.labels(&amd64_image.digest).len(), 3);
}

#[tokio::test]
async fn docker_sees_the_image_of_the_platform() {
    let mut shelf = Shelf::new();
    let chosen = shelf.image_for("amd64", &["gz:one", "gz:two"]);
    let other = shelf.image_for("s390x", &["gz:three"]);
    let root = shelf.index(&[("s390x", &other), ("amd64", &chosen)]);
    let memory = filled(&shelf);
    let images = [image("docker.io/library/a:1", &root), image("quay.io/b/c:2", &root)];
    let exported = export(&memory, &images, &amd64()).await.unwrap();
    // Without the OCI layout's own files it is a docker-archive.
    let mut files = Vec::new();
    let mut reader = tar::Archive::new(&exported[..]);
    for entry in reader.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        files.push((name, content));
    }
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
    // Two folders, index, manifest, configuration and two layers, three files.
    assert_eq!(names.len(), 2 + 5 + 3);
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .filter(|(name, _)| name != "oci-layout" && !name.ends_with('/'))
        .map(|(name, content)| (name.as_str(), &content[..]))
        .collect();
    let copy = Memory::default();
    let imported = import(&copy, archive(&files)).await.unwrap();
    let names = imported.images.iter().map(|image| &image.annotations[ANNOTATION_IMAGE_NAME]);
    assert_eq!(names.collect::<Vec<_>>(), ["docker.io/library/a:1", "quay.io/b/c:2"]);
    adopt(&copy, &imported.index, &Selection::all()).await.unwrap();
}

#[tokio::test]
async fn missing_parts_are_an_error_unless_they_may_be() {
    let mut shelf = Shelf::new();
    let one = shelf.image_for("amd64", &["gz:one"]);
    let two = shelf.image_for("s390x", &["gz:two"]);
    let root = shelf.index(&[("amd64", &one), ("s390x", &two)]);
    let memory = filled(&shelf);
    memory.lock().blobs.remove(&digest(b"gz:two"));
    let images = [image("a:1", &root)];
    let mut how = Exporting { all_platforms: true, ..amd64() };
    assert_eq!(kind(export(&memory, &images, &how).await), ErrorKind::NotFound);
    how.skip_missing = true;
    let exported = export(&memory, &images, &how).await.unwrap();
    let copy = Memory::default();
    let imported = import(&copy, exported).await.unwrap();
    assert!(copy.has(&two.digest));
    adopt(&copy, &imported.index, &Selection::all()).await.unwrap();

    memory.lock().blobs.remove(&two.digest);
    let exported = export(&memory, &images, &how).await.unwrap();
    let copy = Memory::default();
    let imported = import(&copy, exported).await.unwrap();
    adopt(&copy, &imported.index, &Selection::all()).await.unwrap();
    // Of the platform that is wanted, nothing may be missing.
    copy.lock().blobs.remove(&digest(b"gz:one"));
    let adopted = adopt(&copy, &imported.index, &Selection::all()).await;
    assert_eq!(kind(adopted), ErrorKind::NotFound);

    let s390x = Platform { architecture: "s390x".into(), ..Platform::host() };
    let how = Exporting { platforms: Matcher::only(&s390x), ..amd64() };
    let only = shelf.index(&[("amd64", &one)]);
    memory.add("", shelf.blobs[&only.digest].clone());
    assert_eq!(kind(export(&memory, &[image("a", &only)], &how).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_store_with_other_content_is_found_out() {
    let mut shelf = Shelf::new();
    let root = shelf.image(&["gz:right"]);
    let memory = filled(&shelf);
    memory.lock().blobs.get_mut(&digest(b"gz:right")).unwrap().0 = "gz:wrong".into();
    let exported = export(&memory, &[image("a", &root)], &amd64()).await;
    assert_eq!(kind(exported), ErrorKind::DataLoss);
}

#[tokio::test]
async fn archives_may_be_compressed() {
    let mut shelf = Shelf::new();
    let root = shelf.image(&["gz:one", "gz:two"]);
    let plain = layout(&shelf, &root);
    for archive in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let memory = Memory::default();
        let imported = import(&memory, archive.clone()).await.unwrap();
        assert_eq!(imported.images[0].digest, root.digest);
        assert!(memory.has(&digest(b"gz:two")));
        let again = import(&memory, archive).await.unwrap();
        assert_eq!(again.index, imported.index);
    }
}

#[tokio::test]
async fn old_docker_archives_are_read() {
    let layers = [&b"plain"[..], &gzip(b"gzip"), &zstd(b"zstd")];
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest(b"plain").to_string()]},
    })
    .to_string();
    let manifest = serde_json::json!([
        {"Config": "abc.json", "RepoTags": ["a:1", "quay.io/x/y"],
         "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar", "4/layer.tar"]},
        {"Config": "abc.json", "RepoTags": null, "Layers": ["1/layer.tar"]},
    ])
    .to_string();
    let files: [(&str, &[u8]); 9] = [
        ("1/VERSION", b"1.0"),
        ("1/layer.tar", layers[0]),
        ("2/layer.tar", layers[1]),
        ("3/layer.tar", layers[2]),
        ("4/layer.tar -> ../1/layer.tar", b""),
        ("abc.json", config.as_bytes()),
        ("repositories", b"not even JSON"),
        ("1/json", b"{}"),
        ("manifest.json", manifest.as_bytes()),
    ];
    for compress in [false, true] {
        let memory = Memory::default();
        let imported = import_with(&memory, archive(&files), compress).await.unwrap();
        let names: Vec<_> = imported
            .images
            .iter()
            .map(|image| image.annotations.get(ANNOTATION_IMAGE_NAME).map(String::as_str))
            .collect();
        let expected = [Some("docker.io/library/a:1"), Some("quay.io/x/y:latest"), None];
        assert_eq!(names, expected);
        assert_eq!(imported.images[0].platform.as_ref().unwrap().architecture, "amd64");
        let parts = walk::children(&memory, &imported.images[0]).await.unwrap();
        let kinds: Vec<_> = parts[1..].iter().map(|layer| layer.media_type.as_str()).collect();
        let first = if compress { DOCKER_LAYER_GZIP } else { DOCKER_LAYER };
        assert_eq!(kinds, [first, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, first]);
        assert_eq!(parts[1].digest, parts[4].digest);
        if compress {
            let uncompressed = &memory.labels(&parts[1].digest)["containerd.io/uncompressed"];
            assert_eq!(*uncompressed, digest(b"plain").to_string());
        }
        // Files that nobody needs are not kept.
        assert!(!memory.has(&digest(b"not even JSON")));
    }
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing_half_written() {
    let layout: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    let wrong = format!("blobs/sha256/{}", digest(b"right").hex());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": []}).to_string();
    let large = vec![b' '; 9 << 20];
    let circle: [(&str, &[u8]); 3] = [
        ("a -> b", b""),
        ("b -> a", b""),
        ("manifest.json", br#"[{"Config": "a", "Layers": []}]"#),
    ];
    use ErrorKind::{FailedPrecondition, InvalidArgument, ResourceExhausted};
    /// Name and content.
    type File<'a> = (&'a str, &'a [u8]);
    let cases: &[(&str, &[File<'_>], ErrorKind)] = &[
        ("neither of the two", &[("index.json", index.as_bytes())], InvalidArgument),
        ("no index", &[layout], InvalidArgument),
        (
            "another version",
            &[("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#)],
            InvalidArgument,
        ),
        ("wrong blob", &[layout, (&wrong, b"wrong")], FailedPrecondition),
        ("no digest", &[layout, ("blobs/sha256/../../x", b"x")], InvalidArgument),
        ("out of it", &[layout, ("../../etc/passwd", b"x")], InvalidArgument),
        ("huge index", &[layout, ("index.json", &large)], ResourceExhausted),
        ("two indexes", &[("index.json", b"{}"), ("./index.json", b"{}")], InvalidArgument),
        ("two files", &[("a", b"1"), ("a", b"2")], InvalidArgument),
        ("circle", &circle, InvalidArgument),
        ("no JSON", &[("manifest.json", b"[")], InvalidArgument),
        ("no file", &[("manifest.json", br#"[{"Config": "x"}]"#)], InvalidArgument),
    ];
    for (what, files, expected) in cases {
        let memory = Memory::default();
        assert_eq!(kind(import(&memory, archive(files)).await), *expected, "{what}");
    }
    for archive in [Vec::new(), b"nonsense".repeat(1000)] {
        assert!(import(&Memory::default(), archive).await.is_err());
    }
}

#[tokio::test]
async fn archives_that_end_too_early_are_found_out() {
    let mut shelf = Shelf::new();
    let root = shelf.image(&["gz:one", "gz:two"]);
    let plain = layout(&shelf, &root);
    let packed = gzip(&plain);
    for archive in [&plain[..700], &packed[..packed.len() / 2], &packed[..packed.len() - 4]] {
        let imported = import(&Memory::default(), archive.to_vec()).await;
        assert_eq!(kind(imported), ErrorKind::DataLoss);
    }
}

#[tokio::test]
async fn an_archive_without_a_manifest_is_no_image() {
    let mut shelf = Shelf::new();
    let root = Descriptor::new(OCI_MANIFEST, digest(b"not there"), 10);
    shelf.add(media_type::OCI_LAYER, "something");
    let memory = Memory::default();
    let imported = import(&memory, layout(&shelf, &root)).await.unwrap();
    let adopted = adopt(&memory, &imported.index, &Selection::all()).await;
    assert_eq!(kind(adopted), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_full_store_ends_the_import() {
    /// Takes nothing.
    struct Full(Memory);
    #[async_trait]
    impl ContentStore for Full {
        async fn info(&self, digest: &Digest) -> Result<Option<crate::store::ContentInfo>> {
            self.0.info(digest).await
        }
        async fn read(&self, d: &Digest, o: u64) -> Result<Box<dyn crate::store::ContentReader>> {
            self.0.read(d, o).await
        }
        async fn write(
            &self,
            _: &str,
            _: u64,
            _: Option<&Digest>,
        ) -> Result<Box<dyn crate::store::ContentWriter>> {
            Err(Error::new(ErrorKind::ResourceExhausted, "full"))
        }
        async fn set_labels(&self, d: &Digest, l: BTreeMap<String, String>) -> Result<()> {
            self.0.set_labels(d, l).await
        }
        async fn abort(&self, reference: &str) -> Result<()> {
            self.0.abort(reference).await
        }
    }
    let (full, stop) = (Full(Memory::default()), CancellationToken::new());
    full.0.lock().instead_of_abort = Some(busy);
    let archive = archive(&[("a", &[7; 1 << 20]), ("b", b"x")]);
    let import = Import { content: &full, compress: false, stop: &stop };
    let imported = import.run(Pieces::boxed(archive, 1000)).await;
    assert_eq!(kind(imported), ErrorKind::ResourceExhausted);
    let written = write_document(&full, OCI_MANIFEST, "{}".into(), BTreeMap::new()).await;
    assert_eq!(kind(written), ErrorKind::ResourceExhausted);
}

/// Whoever ended it is told so, even if what was written cannot be thrown away.
#[tokio::test]
async fn it_can_be_ended() {
    let (memory, stop) = (Memory::default(), CancellationToken::new());
    stop.cancel();
    for instead in [None, Some(busy as _)] {
        memory.lock().instead_of_abort = instead;
        let import = Import { content: &memory, compress: false, stop: &stop };
        let imported = import.run(Pieces::boxed(archive(&[("a", b"x")]), 1000)).await;
        assert_eq!(kind(imported), ErrorKind::Cancelled);
    }
}
