use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    Platform,
    media_type::{OCI_INDEX, OCI_LAYER_GZIP},
    platform::Matcher,
    progress::Stage,
    store::{ContentInfo, ContentReader, ContentWriter},
    testing::{Memory, Shelf, Snapshots, busy, digest, json, kind},
};

/// What takes part in a pull.
struct Scene {
    memory: Memory,
    snapshots: Snapshots,
    shelf: Shelf,
    selection: Selection,
    origin: Option<Origin>,
    downloads: Semaphore,
    tracker: Tracker,
    stop: CancellationToken,
}

impl Scene {
    fn new() -> Self {
        let memory = Memory::default();
        Self {
            snapshots: Snapshots::new(&memory),
            memory,
            shelf: Shelf::new(),
            selection: Selection::platforms(amd64()),
            origin: None,
            downloads: Semaphore::new(3),
            tracker: Tracker::new("image"),
            stop: CancellationToken::new(),
        }
    }

    async fn pull(&self, root: &Descriptor) -> Result<()> {
        let target = Target { platforms: amd64(), unpacker: &self.snapshots };
        let pull = Pull {
            content: &self.memory,
            source: &self.shelf,
            origin: self.origin.as_ref(),
            selection: &self.selection,
            unpack: &[target],
            downloads: &self.downloads,
            tracker: &self.tracker,
            stop: &self.stop,
        };
        pull.run(root).await
    }

    fn has(&self, content: &str) -> bool {
        self.memory.has(&digest(content.as_bytes()))
    }

    /// Nothing is half there.
    fn is_clean(&self) -> bool {
        self.snapshots.state.lock().unwrap().active.is_empty()
            && self.memory.lock().ingests.is_empty()
    }
}

fn amd64() -> Matcher {
    Matcher::only(&Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        ..Platform::default()
    })
}

#[tokio::test]
async fn an_image_is_fetched_and_unpacked() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one", "gz:two", "gz:three"]);
    scene.pull(&root).await.unwrap();
    assert!(scene.is_clean());

    let diff_ids = [digest(b"one"), digest(b"two"), digest(b"three")];
    let top = manifest::chain_id(&diff_ids).unwrap().to_string();
    let state = scene.snapshots.state.lock().unwrap();
    let layers = ["gz:one", "gz:two", "gz:three"].map(|layer| digest(layer.as_bytes()));
    assert_eq!(state.applied, layers);
    let below = manifest::chain_id(&diff_ids[..2]).unwrap().to_string();
    assert_eq!(state.committed[&top], below);

    let labels = scene.memory.labels(&root.digest);
    let config = Digest::parse(&labels["containerd.io/gc.ref.content.config"]).unwrap();
    assert_eq!(labels["containerd.io/gc.ref.content.l.2"], layers[2].to_string());
    assert_eq!(labels.len(), 4);
    let labels = scene.memory.labels(&config);
    assert_eq!(labels["containerd.io/gc.ref.snapshot.memory"], top);
    let labels = scene.memory.labels(&layers[1]);
    assert_eq!(labels["containerd.io/uncompressed"], diff_ids[1].to_string());

    let stages: Vec<_> = scene.tracker.changes().iter().map(|report| report.stage).collect();
    assert_eq!(stages.iter().filter(|stage| **stage == Stage::Extracted).count(), 3);
    assert_eq!(stages.iter().filter(|stage| **stage == Stage::Complete).count(), 2);
}

#[tokio::test]
async fn what_is_there_has_the_size_that_is_told() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one"]);
    scene.pull(&root).await.unwrap();
    for size in [root.size - 1, root.size + 1] {
        let liar = Descriptor { size, ..root.clone() };
        assert_eq!(kind(scene.pull(&liar).await), ErrorKind::FailedPrecondition);
    }
}

#[tokio::test]
async fn what_is_there_is_not_fetched_or_unpacked_again() {
    let mut scene = Scene::new();
    let first = scene.shelf.image(&["gz:one", "gz:two"]);
    let second = scene.shelf.image(&["gz:one", "gz:two", "gz:three"]);
    scene.pull(&first).await.unwrap();
    scene.pull(&second).await.unwrap();
    scene.pull(&second).await.unwrap();
    let state = scene.snapshots.state.lock().unwrap();
    assert_eq!(state.applied.len(), 3);
    assert_eq!(state.committed.len(), 3);
    // Two manifests, two configurations, three layers.
    assert_eq!(scene.shelf.state.lock().unwrap().opened.len(), 7);
}

#[tokio::test]
async fn layers_come_side_by_side_but_not_too_many() {
    let mut scene = Scene::new();
    let layers: Vec<_> = (0..20).map(|number| format!("gz:layer {number}")).collect();
    let root = scene.shelf.image(&layers.iter().map(String::as_str).collect::<Vec<_>>());
    scene.pull(&root).await.unwrap();
    assert_eq!(scene.shelf.state.lock().unwrap().most_open, 3);
    assert_eq!(scene.snapshots.state.lock().unwrap().applied.len(), 20);
}

#[tokio::test]
async fn a_layer_is_unpacked_while_others_are_on_their_way() {
    let mut scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    scene.shelf.gate = Some(gate.clone());
    scene.downloads = Semaphore::new(1);
    let root = scene.shelf.image(&["gz:1", "gz:2"]);
    let watch = async {
        // One layer of four bytes, and its end.
        gate.add_permits(2);
        while scene.snapshots.state.lock().unwrap().committed.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!scene.has("gz:2"));
        gate.add_permits(100);
    };
    let (pulled, ()) = tokio::join!(scene.pull(&root), watch);
    pulled.unwrap();
    assert_eq!(scene.snapshots.state.lock().unwrap().committed.len(), 2);
}

#[tokio::test]
async fn a_download_that_broke_goes_on_where_it_broke() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:something long"]);
    scene.shelf.state.lock().unwrap().breaks = vec![8, 4, 100];
    for _ in 0..2 {
        assert_eq!(kind(scene.pull(&root).await), ErrorKind::Unavailable);
        assert!(scene.snapshots.state.lock().unwrap().active.is_empty());
    }
    scene.pull(&root).await.unwrap();
    let state = scene.shelf.state.lock().unwrap();
    let layer = digest(b"gz:something long");
    let offsets: Vec<_> = state.opened.iter().filter(|(d, _)| *d == layer).map(|o| o.1).collect();
    assert_eq!(offsets, [0, 8, 12]);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_leave_nothing() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:right", "gz:other"]);
    scene.shelf.blobs.insert(digest(b"gz:right"), "gz:wrong".into());
    assert_eq!(kind(scene.pull(&root).await), ErrorKind::FailedPrecondition);
    assert!(!scene.has("gz:wrong"));
    assert!(!scene.memory.lock().ingests.contains_key(&format!("layer-{}", digest(b"gz:right"))));
    assert!(scene.snapshots.state.lock().unwrap().active.is_empty());
}

#[tokio::test]
async fn a_pull_that_fails_waits_for_what_it_has_begun() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:missing", "gz:1", "gz:2", "gz:3"]);
    scene.shelf.blobs.remove(&digest(b"gz:missing"));
    scene.downloads = Semaphore::new(2);
    assert_eq!(kind(scene.pull(&root).await), ErrorKind::NotFound);
    assert_eq!(scene.memory.lock().opening, 0);
}

#[tokio::test]
async fn a_source_that_lies_about_sizes_is_refused() {
    for lie in ["gz:right and more", "gz:r"] {
        let mut scene = Scene::new();
        let root = scene.shelf.image(&["gz:right"]);
        scene.shelf.blobs.insert(digest(b"gz:right"), lie.into());
        let expected =
            if lie.len() > 8 { ErrorKind::FailedPrecondition } else { ErrorKind::DataLoss };
        assert_eq!(kind(scene.pull(&root).await), expected, "{lie}");
    }
}

#[tokio::test]
async fn a_wrong_beginning_is_thrown_away_once() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:right"]);
    let reference = format!("layer-{}", digest(b"gz:right"));
    scene.memory.lock().ingests.insert(reference, b"nonsense".to_vec());
    scene.pull(&root).await.unwrap();
    assert!(scene.has("gz:right"));
}

/// It is not the failure to throw it away that the caller hears of.
#[tokio::test]
async fn what_cannot_be_thrown_away_is_written_over_once() {
    let reference = format!("layer-{}", digest(b"gz:right"));
    let downloads = |scene: &Scene| {
        let state = scene.shelf.state.lock().unwrap();
        state.opened.iter().filter(|(layer, _)| *layer == digest(b"gz:right")).count()
    };
    let scene = |resumed: &[u8]| {
        let mut scene = Scene::new();
        let root = scene.shelf.image(&["gz:right"]);
        let mut stored = scene.memory.lock();
        stored.ingests.insert(reference.clone(), resumed.to_vec());
        stored.instead_of_abort = Some(busy);
        drop(stored);
        (scene, root)
    };
    let (right, root) = scene(b"nonsense");
    right.pull(&root).await.unwrap();
    assert!(right.has("gz:right"));
    // The first eight bytes were there already.
    assert_eq!(downloads(&right), 1);

    for (resumed, tries) in [(&b"nons"[..], 2), (b"", 1)] {
        let (mut wrong, root) = scene(resumed);
        wrong.shelf.blobs.insert(digest(b"gz:right"), "gz:wrong".into());
        assert_eq!(kind(wrong.pull(&root).await), ErrorKind::FailedPrecondition);
        assert_eq!(downloads(&wrong), tries);
    }
}

#[tokio::test]
async fn whoever_takes_over_a_wrong_beginning_is_waited_for() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:right"]);
    let reference = format!("layer-{}", digest(b"gz:right"));
    scene.memory.lock().ingests.insert(reference, b"nonsense".to_vec());
    scene.memory.lock().instead_of_abort = Some(|stored, reference| {
        // It has been at it since the wrong beginning was found out, and ends it.
        stored.ingests.remove(reference);
        stored.blobs.insert(digest(b"gz:right"), ("gz:right".into(), BTreeMap::new()));
        Err(Error::unavailable(reference))
    });
    scene.pull(&root).await.unwrap();
    let state = scene.shelf.state.lock().unwrap();
    assert!(state.opened.iter().all(|(found, _)| *found != digest(b"gz:right")));
    assert!(scene.is_clean());
}

#[tokio::test]
async fn what_somebody_else_had_and_has_deleted_is_fetched() {
    for (times, expected) in [(1, None), (5, Some(ErrorKind::Aborted))] {
        let mut scene = Scene::new();
        let root = scene.shelf.image(&["gz:one"]);
        scene.memory.lock().refused = vec![ErrorKind::Aborted; times];
        let pulled = scene.pull(&root).await;
        assert_eq!(pulled.as_ref().map_err(Error::kind).err(), expected);
        // No more than once more.
        let state = scene.shelf.state.lock().unwrap();
        assert_eq!(state.opened.iter().filter(|(found, _)| *found == root.digest).count(), 2);
        assert!(scene.is_clean());
    }
}

#[tokio::test]
async fn a_layer_that_is_not_what_its_configuration_says_is_no_snapshot() {
    let mut scene = Scene::new();
    let honest = scene.shelf.image(&["gz:one", "gz:two"]);
    let manifest = scene.shelf.blobs[&honest.digest].clone();
    let manifest = String::from_utf8(manifest.to_vec()).unwrap();
    let other = scene.shelf.add(OCI_LAYER_GZIP, "gz:six");
    let forged = manifest.replace(&digest(b"gz:two").to_string(), &other.digest.to_string());
    let forged = scene.shelf.add(&honest.media_type, forged);
    assert_eq!(kind(scene.pull(&forged).await), ErrorKind::FailedPrecondition);
    let state = scene.snapshots.state.lock().unwrap();
    assert_eq!(state.committed.len(), 1);
    assert!(state.active.is_empty());
}

#[tokio::test]
async fn whoever_is_faster_unpacks_and_both_have_it() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one", "gz:two"]);
    scene.snapshots.state.lock().unwrap().raced = true;
    scene.pull(&root).await.unwrap();
    assert!(scene.is_clean());
    assert_eq!(scene.snapshots.state.lock().unwrap().committed.len(), 2);
}

#[tokio::test]
async fn what_somebody_else_unpacked_and_lost_is_unpacked_again() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one", "gz:two"]);
    scene.snapshots.state.lock().unwrap().gone = 2;
    scene.pull(&root).await.unwrap();
    assert!(scene.is_clean());
    {
        let state = scene.snapshots.state.lock().unwrap();
        assert_eq!((state.committed.len(), state.applied.len()), (2, 4));
    }

    // But not for ever.
    let other = scene.shelf.image(&["gz:other"]);
    scene.snapshots.state.lock().unwrap().gone = u32::MAX;
    let refused = scene.pull(&other).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(scene.snapshots.state.lock().unwrap().active.is_empty());
}

#[tokio::test]
async fn two_pulls_of_the_same_share_the_work() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one", "gz:two"]);
    let (a, b) = tokio::join!(scene.pull(&root), scene.pull(&root));
    a.and(b).unwrap();
    assert!(scene.is_clean());
    assert_eq!(scene.shelf.state.lock().unwrap().opened.len(), 4);
}

#[tokio::test]
async fn only_the_wanted_platform_is_fetched() {
    let mut scene = Scene::new();
    let amd64 = scene.shelf.image_for("amd64", &["gz:amd64"]);
    let arm64 = scene.shelf.image_for("s390x", &["gz:s390x"]);
    let root = scene.shelf.index(&[("s390x", &arm64), ("amd64", &amd64)]);
    scene.pull(&root).await.unwrap();
    assert!(scene.has("gz:amd64"));
    assert!(!scene.memory.has(&arm64.digest));
    // What comes later is kept by the index, too.
    let labels = scene.memory.labels(&root.digest);
    assert_eq!(labels["containerd.io/gc.ref.content.m.0"], arm64.digest.to_string());

    scene.selection.all_metadata = true;
    scene.pull(&root).await.unwrap();
    assert!(scene.memory.has(&arm64.digest));
    assert!(!scene.has("gz:s390x"));

    scene.selection = Selection::all();
    scene.pull(&root).await.unwrap();
    assert!(scene.has("gz:s390x"));
    assert_eq!(scene.snapshots.state.lock().unwrap().committed.len(), 1);
}

#[tokio::test]
async fn an_index_without_the_platform_is_an_error() {
    let mut scene = Scene::new();
    let manifest = scene.shelf.image_for("s390x", &["gz:s390x"]);
    let root = scene.shelf.index(&[("s390x", &manifest)]);
    assert_eq!(kind(scene.pull(&root).await), ErrorKind::NotFound);
    scene.selection.manifest_limit = 1;
    assert_eq!(kind(scene.pull(&root).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn indexes_in_circles_too_deep_or_too_large_are_refused() {
    let mut scene = Scene::new();
    // A store that checks digests never has a circle, so the walk is told of it.
    let (a, b) = (scene.shelf.add(OCI_INDEX, "a"), scene.shelf.add(OCI_INDEX, "b"));
    let mut walk = Walk::new(&a).unwrap();
    let step = walk.level().remove(0);
    walk.found(&step, vec![b]).unwrap();
    let step = walk.level().remove(0);
    assert_eq!(kind(walk.found(&step, vec![a])), ErrorKind::InvalidArgument);

    let mut root = scene.shelf.image(&["gz:one"]);
    for _ in 0..8 {
        root = scene.shelf.index(&[("amd64", &root)]);
    }
    assert_eq!(kind(scene.pull(&root).await), ErrorKind::InvalidArgument);

    let large = scene.shelf.add(OCI_INDEX, vec![b' '; 10 << 20]);
    assert_eq!(kind(scene.pull(&large).await), ErrorKind::ResourceExhausted);
    assert!(!scene.memory.has(&large.digest));

    let many: Vec<_> = (0..10_001_u32)
        .map(|number| json(&Descriptor::new(OCI_LAYER_GZIP, digest(&number.to_le_bytes()), 1)))
        .collect();
    let many = scene.shelf.add(OCI_INDEX, serde_json::json!({"manifests": many}).to_string());
    assert_eq!(kind(scene.pull(&many).await), ErrorKind::InvalidArgument);
    assert!(scene.is_clean());
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one", "gz:two"]);
    scene.shelf.blobs.remove(&digest(b"gz:two"));
    let error = scene.pull(&root).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().to_string().contains(&digest(b"gz:two").to_string()), "{error:?}");
    assert!(scene.snapshots.state.lock().unwrap().active.is_empty());
}

#[tokio::test]
async fn where_content_came_from_is_noted() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one"]);
    for repository in ["library/one", "library/another"] {
        let repository = repository.to_owned();
        scene.origin = Some(Origin { host: "docker.io".into(), repository });
        scene.pull(&root).await.unwrap();
    }
    for digest in [&root.digest, &digest(b"gz:one")] {
        let labels = scene.memory.labels(digest);
        let noted = &labels["containerd.io/distribution.source.docker.io"];
        assert_eq!(noted, "library/another,library/one");
    }
}

#[tokio::test]
async fn ending_it_leaves_what_has_come_for_the_next_try() {
    let mut scene = Scene::new();
    let gate = Arc::new(Semaphore::new(0));
    scene.shelf.gate = Some(gate.clone());
    let root = scene.shelf.image(&["gz:something long"]);
    let end = async {
        gate.add_permits(2);
        let reference = format!("layer-{}", digest(b"gz:something long"));
        while scene.memory.lock().ingests.get(&reference).is_none_or(|come| come.len() < 8) {
            tokio::task::yield_now().await;
        }
        scene.stop.cancel();
    };
    let (pulled, ()) = tokio::join!(scene.pull(&root), end);
    assert_eq!(kind(pulled), ErrorKind::Cancelled);
    assert!(scene.snapshots.state.lock().unwrap().active.is_empty());

    (scene.stop, scene.shelf.gate) = (CancellationToken::new(), None);
    scene.pull(&root).await.unwrap();
    let state = scene.shelf.state.lock().unwrap();
    assert!(state.opened.contains(&(digest(b"gz:something long"), 8)), "{:?}", state.opened);
}

/// It knows what there is, but somebody else has it, who is away.
struct Away(Memory);

#[async_trait]
impl ContentStore for Away {
    async fn info(&self, digest: &Digest) -> Result<Option<ContentInfo>> {
        self.0.info(digest).await
    }

    async fn read(&self, _: &Digest, _: u64) -> Result<Box<dyn ContentReader>> {
        Err(Error::unavailable("away"))
    }

    async fn write(&self, _: &str, _: u64, _: Option<&Digest>) -> Result<Box<dyn ContentWriter>> {
        Err(Error::unavailable("away"))
    }

    async fn set_labels(&self, _: &Digest, _: BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }

    async fn abort(&self, _: &str) -> Result<()> {
        Err(Error::unavailable("away"))
    }
}

/// Whoever writes the same is waited for; a store that is away is not.
#[tokio::test]
async fn a_store_that_is_away_is_not_waited_for() {
    let mut scene = Scene::new();
    let root = scene.shelf.image(&["gz:one"]);
    for known in [false, true] {
        if known {
            scene.pull(&root).await.unwrap();
        }
        let away = Away(scene.memory.clone());
        let pull = Pull {
            content: &away,
            source: &scene.shelf,
            origin: None,
            selection: &scene.selection,
            unpack: &[],
            downloads: &scene.downloads,
            tracker: &scene.tracker,
            stop: &scene.stop,
        };
        assert_eq!(kind(pull.run(&root).await), ErrorKind::Unavailable, "{known}");
    }
}
