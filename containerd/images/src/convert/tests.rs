use std::io::Write;

use shim_protocol::ErrorKind;

use super::*;
use crate::{
    Platform,
    media_type::{
        DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, DOCKER_MANIFEST_LIST,
        OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST,
    },
    testing::{Memory, busy, digest, json, kind},
    unpack::UNCOMPRESSED_LABEL,
};

fn gzip(content: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &str) -> Vec<u8> {
    zstd::encode_all(content.as_bytes(), 1).unwrap()
}

/// An image's layer with what the configuration says of it.
fn layer(memory: &Memory, media_type: &str, bytes: Vec<u8>, plain: &str) -> (Descriptor, Digest) {
    (memory.add(media_type, bytes), digest(plain.as_bytes()))
}

/// An image in the media types of OCI, or of Docker.
fn image(memory: &Memory, docker: bool, layers: &[(Descriptor, Digest)]) -> Descriptor {
    let (manifest, config) = match docker {
        true => (DOCKER_MANIFEST, DOCKER_CONFIG),
        false => (OCI_MANIFEST, OCI_CONFIG),
    };
    let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect();
    let document = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = memory.add(config, document.to_string());
    let layers: Vec<_> = layers.iter().map(|(layer, _)| json(layer)).collect();
    let document = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest, "config": json(&config), "layers": layers,
    });
    memory.add(manifest, document.to_string())
}

/// An index with a manifest for each architecture; none is said for `""`.
fn index(memory: &Memory, media_type: &str, manifests: &[(&str, &Descriptor)]) -> Descriptor {
    let manifests: Vec<_> = manifests
        .iter()
        .map(|(architecture, manifest)| {
            let mut manifest = json(manifest);
            if !architecture.is_empty() {
                manifest["platform"] =
                    serde_json::json!({"os": "linux", "architecture": architecture});
            }
            manifest
        })
        .collect();
    let document = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type, "manifests": manifests,
    });
    memory.add(media_type, document.to_string())
}

/// How to convert.
#[derive(Clone, Copy, Default)]
struct How<'a> {
    platforms: Option<&'a Matcher>,
    uncompress: bool,
    oci: bool,
}

const UNCOMPRESS: How<'_> = How { platforms: None, uncompress: true, oci: false };
const OCI: How<'_> = How { platforms: None, uncompress: false, oci: true };

async fn convert(memory: &Memory, root: &Descriptor, how: How<'_>) -> Result<Descriptor> {
    let How { platforms, uncompress, oci } = how;
    let stop = &CancellationToken::new();
    Convert { content: memory, platforms, uncompress, oci, stop }.run(root).await
}

fn manifest(memory: &Memory, root: &Descriptor) -> Manifest {
    Manifest::parse(&memory.get(&root.digest)).unwrap()
}

/// The digests that labels of content keep.
fn kept(memory: &Memory, document: &Descriptor) -> Vec<Digest> {
    let labels = memory.labels(&document.digest);
    let kept = labels.iter().filter(|(key, _)| key.starts_with(CHILD_LABEL));
    kept.map(|(_, digest)| Digest::parse(digest).unwrap()).collect()
}

#[tokio::test]
async fn layers_lose_their_compression() {
    let memory = Memory::default();
    let layers = [
        layer(&memory, OCI_LAYER_GZIP, gzip("one"), "one"),
        layer(&memory, OCI_LAYER, b"two".to_vec(), "two"),
        layer(&memory, OCI_LAYER_ZSTD, zstd("three"), "three"),
        // The same again, as empty layers often are.
        layer(&memory, OCI_LAYER_GZIP, gzip("one"), "one"),
    ];
    let root = image(&memory, false, &layers);
    let others = [("a", "b"), ("containerd.io/distribution.source.here", "there")];
    let others = others.map(|(key, value)| (key.to_owned(), value.to_owned()));
    memory.set_labels(&root.digest, BTreeMap::from(others)).await.unwrap();

    let made = convert(&memory, &root, UNCOMPRESS).await.unwrap();
    assert_eq!(
        (made.media_type.as_str(), made.size),
        (OCI_MANIFEST, memory.get(&made.digest).len() as u64)
    );
    assert_ne!(made.digest, root.digest);
    let (old, new) = (manifest(&memory, &root), manifest(&memory, &made));
    assert_eq!(new.config, old.config);
    for (plain, layer) in ["one", "two", "three", "one"].iter().zip(&new.layers) {
        assert_eq!(layer.media_type, OCI_LAYER);
        assert_eq!(layer.digest, digest(plain.as_bytes()));
        assert_eq!(layer.size, plain.len() as u64);
        assert_eq!(memory.get(&layer.digest), plain.as_bytes());
    }
    let label = memory.labels(&new.layers[0].digest);
    assert_eq!(label[UNCOMPRESSED_LABEL], new.layers[0].digest.to_string());
    let mut expected: Vec<_> = [&new.config].into_iter().chain(&new.layers).collect();
    expected.sort_by(|a, b| a.digest.cmp(&b.digest));
    let mut found = kept(&memory, &made);
    found.sort();
    assert_eq!(found, expected.iter().map(|part| part.digest.clone()).collect::<Vec<_>>());
    let labels = memory.labels(&made.digest);
    assert_eq!(labels["a"], "b");
    assert!(!labels.keys().any(|key| origin::is_label(key)), "{labels:?}");
    assert!(memory.lock().ingests.is_empty());

    // The same comes of it again, and nothing more.
    let count = memory.lock().blobs.len();
    assert_eq!(convert(&memory, &root, UNCOMPRESS).await.unwrap(), made);
    assert_eq!(convert(&memory, &made, UNCOMPRESS).await.unwrap(), made);
    assert_eq!(memory.lock().blobs.len(), count);
}

#[tokio::test]
async fn dockers_media_types_become_those_of_oci() {
    let memory = Memory::default();
    let layers = [
        layer(&memory, DOCKER_LAYER_GZIP, gzip("one"), "one"),
        layer(&memory, DOCKER_LAYER, b"two".to_vec(), "two"),
    ];
    let root = image(&memory, true, &layers);
    let list = index(&memory, DOCKER_MANIFEST_LIST, &[("amd64", &root)]);

    let made = convert(&memory, &list, OCI).await.unwrap();
    assert_eq!(made.media_type, OCI_INDEX);
    let new = Index::parse(&memory.get(&made.digest)).unwrap();
    assert_eq!((new.media_type.as_str(), new.manifests.len()), (OCI_INDEX, 1));
    assert_eq!(kept(&memory, &made), [new.manifests[0].digest.clone()]);
    assert_eq!(new.manifests[0].media_type, OCI_MANIFEST);
    assert_eq!(new.manifests[0].platform.as_ref().unwrap().architecture, "amd64");
    let new = manifest(&memory, &new.manifests[0]);
    assert_eq!(
        (new.media_type.as_str(), new.config.media_type.as_str()),
        (OCI_MANIFEST, OCI_CONFIG)
    );
    let kinds: Vec<_> = new.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    assert_eq!(kinds, [OCI_LAYER_GZIP, OCI_LAYER]);
    // Their content is what it was.
    let old = manifest(&memory, &root);
    let digests = |m: &Manifest| m.layers.iter().map(|l| l.digest.clone()).collect::<Vec<_>>();
    assert_eq!(
        (new.config.digest.clone(), digests(&new)),
        (old.config.digest.clone(), digests(&old))
    );

    // Both at once is one after the other.
    let both = How { uncompress: true, ..OCI };
    let one = convert(&memory, &made, UNCOMPRESS).await.unwrap();
    assert_eq!(convert(&memory, &list, both).await.unwrap(), one);
    // Docker knows no annotations, OCI does.
    let mut annotated = list.clone();
    annotated.annotations.insert("a".into(), "b".into());
    assert_eq!(convert(&memory, &annotated, OCI).await.unwrap().annotations, annotated.annotations);
    let plain = convert(&memory, &annotated, How::default()).await.unwrap();
    assert_eq!(plain, list);
}

#[tokio::test]
async fn of_an_index_the_wanted_platforms_stay() {
    let memory = Memory::default();
    let one =
        |text: &str| image(&memory, false, &[layer(&memory, OCI_LAYER_GZIP, gzip(text), text)]);
    let (amd64, any) = (one("one"), one("any"));
    // Not all of it needs to be there.
    let arm64 = Descriptor::new(OCI_MANIFEST, digest(b"arm64"), 5);
    let below = index(&memory, OCI_INDEX, &[("amd64", &amd64)]);
    let parts = [("arm64", &arm64), ("amd64", &amd64), ("", &any), ("", &below)];
    let root = index(&memory, OCI_INDEX, &parts);
    let matcher = |architecture: &str| {
        let platform = Platform::parse(&format!("linux/{architecture}")).unwrap();
        Matcher::strict(&platform)
    };
    let wanted = matcher("amd64");
    let how = How { platforms: Some(&wanted), ..UNCOMPRESS };
    let made = convert(&memory, &root, how).await.unwrap();
    let new = Index::parse(&memory.get(&made.digest)).unwrap().manifests;
    let architectures: Vec<_> =
        new.iter().map(|m| m.platform.as_ref().map(|p| p.architecture.as_str())).collect();
    assert_eq!(architectures, [Some("amd64"), None, None]);
    for (part, text) in new.iter().zip(["one", "any"]) {
        assert_eq!(manifest(&memory, part).layers[0].digest, digest(text.as_bytes()));
    }
    let below = Index::parse(&memory.get(&new[2].digest)).unwrap().manifests;
    assert_eq!(below, new[..1]);

    let all = convert(&memory, &root, UNCOMPRESS).await;
    assert_eq!(kind(all), ErrorKind::NotFound);
    let (wanted, only) = (matcher("s390x"), index(&memory, OCI_INDEX, &parts[..2]));
    let none = convert(&memory, &only, How { platforms: Some(&wanted), ..UNCOMPRESS }).await;
    assert_eq!(kind(none), ErrorKind::NotFound);
    // Without an index there is nothing to choose from.
    let how = How { platforms: Some(&wanted), ..OCI };
    assert_eq!(convert(&memory, &amd64, how).await.unwrap(), amd64);
}

#[tokio::test]
async fn what_is_shared_by_two_is_done_before_both() {
    let memory = Memory::default();
    let shared = image(&memory, false, &[layer(&memory, OCI_LAYER_GZIP, gzip("x"), "x")]);
    let inner = index(&memory, OCI_INDEX, &[("amd64", &shared)]);
    let outer = index(&memory, OCI_INDEX, &[("", &inner)]);
    // Found at the top first, and needed three levels below.
    let root = index(&memory, OCI_INDEX, &[("", &shared), ("", &inner), ("", &outer)]);
    let made = convert(&memory, &root, UNCOMPRESS).await.unwrap();
    let below = |d: &Descriptor| Index::parse(&memory.get(&d.digest)).unwrap().manifests;
    let top = below(&made);
    assert_eq!(below(&top[1])[0].digest, top[0].digest);
    assert_eq!(below(&top[2])[0].digest, top[1].digest);
}

#[tokio::test]
async fn what_is_wrong_is_said_and_leaves_no_ingest() {
    let memory = Memory::default();
    let wrong = |layers: &[(Descriptor, Digest)]| image(&memory, false, layers);
    let good = layer(&memory, OCI_LAYER_GZIP, gzip("good"), "good");
    let lies = layer(&memory, OCI_LAYER_GZIP, gzip("lies"), "truth");
    let mut torn = gzip("torn");
    torn.truncate(12);
    let torn = layer(&memory, OCI_LAYER_GZIP, torn, "torn");
    let gone = (Descriptor::new(OCI_LAYER_GZIP, digest(b"gone"), 4), digest(b"gone"));
    for (root, expected) in [
        (wrong(&[good.clone(), lies]), ErrorKind::FailedPrecondition),
        (wrong(&[good.clone(), torn, good.clone()]), ErrorKind::DataLoss),
        (wrong(&[gone, good]), ErrorKind::NotFound),
        (memory.add(OCI_CONFIG, "{}"), ErrorKind::InvalidArgument),
        (memory.add(OCI_MANIFEST, "{}"), ErrorKind::InvalidArgument),
        (Descriptor::new(OCI_INDEX, digest(b"index"), 5), ErrorKind::NotFound),
    ] {
        let documents = |memory: &Memory| {
            let stored = memory.lock();
            stored.blobs.values().filter(|(content, _)| content.starts_with(b"{")).count()
        };
        let before = documents(&memory);
        assert_eq!(kind(convert(&memory, &root, UNCOMPRESS).await), expected, "{root:?}");
        assert_eq!(documents(&memory), before);
        assert!(memory.lock().ingests.is_empty());
    }
}

#[tokio::test]
async fn what_is_more_than_compressed_stays() {
    let memory = Memory::default();
    let encrypted = format!("{OCI_LAYER_GZIP}+encrypted");
    let root = image(&memory, false, &[layer(&memory, &encrypted, b"secret".to_vec(), "x")]);
    assert_eq!(convert(&memory, &root, UNCOMPRESS).await.unwrap(), root);
}

#[tokio::test]
async fn it_can_be_ended() {
    let memory = Memory::default();
    let root = image(&memory, false, &[layer(&memory, OCI_LAYER_GZIP, gzip("x"), "x")]);
    let stop = CancellationToken::new();
    stop.cancel();
    let convert =
        Convert { content: &memory, platforms: None, uncompress: true, oci: true, stop: &stop };
    assert_eq!(kind(convert.run(&root).await), ErrorKind::Cancelled);
    assert_eq!(memory.lock().ingests.len(), 0);
    // Even if what was written cannot be thrown away.
    memory.lock().instead_of_abort = Some(busy);
    let layer = digest(&gzip("x"));
    let converted = compression::convert(&memory, &layer, Compression::None, &stop).await;
    assert_eq!(kind(converted), ErrorKind::Cancelled);
}

#[tokio::test]
async fn what_cannot_be_committed_is_thrown_away() {
    let memory = Memory::default();
    let layer = memory.add(OCI_LAYER_GZIP, gzip("x")).digest;
    memory.lock().refused = vec![ErrorKind::ResourceExhausted; 4];
    for instead in [None, Some(busy as _)] {
        memory.lock().instead_of_abort = instead;
        let stop = CancellationToken::new();
        let converted = compression::convert(&memory, &layer, Compression::None, &stop).await;
        assert_eq!(kind(converted), ErrorKind::ResourceExhausted);
        let written = write_document(&memory, OCI_INDEX, "{}".into(), BTreeMap::new()).await;
        assert_eq!(kind(written), ErrorKind::ResourceExhausted);
        assert_eq!(memory.lock().ingests.is_empty(), instead.is_none());
    }
}

/// The same was there, and a collector took it.
#[tokio::test]
async fn what_goes_before_it_is_kept_is_written_again() {
    let memory = Memory::default();
    let layer = memory.add(OCI_LAYER_GZIP, gzip("x")).digest;
    let convert = async || {
        let stop = CancellationToken::new();
        compression::convert(&memory, &layer, Compression::None, &stop).await
    };
    let write = async || write_document(&memory, OCI_INDEX, "{}".into(), BTreeMap::new()).await;
    for (times, expected) in [(3, Some(ErrorKind::Aborted)), (2, None)] {
        memory.lock().refused = vec![ErrorKind::Aborted; times];
        assert_eq!(convert().await.err().map(|e| e.kind()), expected);
        memory.lock().refused = vec![ErrorKind::Aborted; times];
        assert_eq!(write().await.err().map(|e| e.kind()), expected);
        assert!(memory.lock().refused.is_empty() && memory.lock().ingests.is_empty());
    }
}
