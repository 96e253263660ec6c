use std::sync::Mutex;

use super::*;
use crate::{
    Platform,
    platform::Matcher,
    testing::{Memory, Shelf, digest, kind},
};

/// A registry that things are put into.
#[derive(Default)]
struct Registry(Mutex<State>);

#[derive(Default)]
struct State {
    has: Vec<Digest>,
    mountable: Vec<(Digest, String)>,
    /// What was done, in order.
    log: Vec<String>,
    uploading: usize,
    most: usize,
}

#[async_trait]
impl Sink for Registry {
    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.0.lock().unwrap().has.contains(&descriptor.digest))
    }

    async fn upload(&self, blob: Blob<'_>, from: Option<&str>) -> Result<()> {
        {
            let mut state = self.0.lock().unwrap();
            if let Some(from) = from {
                state.log.push(format!("mount {from}"));
                let wanted = (blob.descriptor.digest.clone(), from.to_owned());
                if state.mountable.contains(&wanted) {
                    return Ok(());
                }
            }
            state.uploading += 1;
            state.most = state.most.max(state.uploading);
        }
        let mut reader = blob.open(0).await?;
        let mut content = Vec::new();
        while let Some(piece) = reader.next().await? {
            content.extend_from_slice(&piece);
            tokio::task::yield_now().await;
        }
        assert_eq!(digest(&content), blob.descriptor.digest);
        let mut state = self.0.lock().unwrap();
        state.uploading -= 1;
        state.has.push(digest(&content));
        state.log.push("blob".into());
        Ok(())
    }

    async fn put(&self, descriptor: &Descriptor, document: Bytes, is_image: bool) -> Result<()> {
        assert_eq!(digest(&document), descriptor.digest);
        let mut state = self.0.lock().unwrap();
        state.has.push(digest(&document));
        let kind = if media_type::is_index(&descriptor.media_type) { "index" } else { "manifest" };
        state.log.push(format!("{kind}{}", if is_image { " named" } else { "" }));
        Ok(())
    }
}

impl Registry {
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }
}

/// A store with all that a shelf has.
fn filled(shelf: &Shelf) -> Memory {
    let memory = Memory::default();
    for content in shelf.blobs.values() {
        memory.add("", content.clone());
    }
    memory
}

async fn push(
    memory: &Memory,
    registry: &Registry,
    root: &Descriptor,
    selection: &Selection,
) -> Result<()> {
    let push = Push {
        content: memory,
        sink: registry,
        origin: Some(&Origin { host: "here".into(), repository: "a/b".into() }),
        selection,
        uploads: &Semaphore::new(2),
        tracker: &Arc::new(Tracker::new("image")),
        stop: &CancellationToken::new(),
    };
    push.run(root).await
}

fn two_platforms(shelf: &mut Shelf) -> Descriptor {
    let one = shelf.image_for("amd64", &["one", "two"]);
    let two = shelf.image_for("s390x", &["one", "three"]);
    shelf.index(&[("amd64", &one), ("s390x", &two)])
}

#[tokio::test]
async fn parts_come_before_what_they_are_parts_of() {
    let mut shelf = Shelf::new();
    let root = two_platforms(&mut shelf);
    let (memory, registry) = (filled(&shelf), Registry::default());
    push(&memory, &registry, &root, &Selection::all()).await.unwrap();
    let log = registry.log();
    // Two configurations and three layers.
    assert_eq!(
        log,
        ["blob", "blob", "blob", "blob", "blob", "manifest", "manifest", "index named"]
    );
    assert_eq!(registry.0.lock().unwrap().most, 2);
    push(&memory, &registry, &root, &Selection::all()).await.unwrap();
    assert_eq!(registry.log(), ["index named"]);
}

#[tokio::test]
async fn only_wanted_platforms_are_pushed() {
    let mut shelf = Shelf::new();
    let root = two_platforms(&mut shelf);
    let (memory, registry) = (filled(&shelf), Registry::default());
    let wanted = |architecture: &str| {
        let (os, architecture) = ("linux".into(), architecture.into());
        let platform = Platform { os, architecture, ..Platform::default() };
        Selection::platforms(Matcher::any(&[platform]))
    };
    push(&memory, &registry, &root, &wanted("s390x")).await.unwrap();
    assert_eq!(registry.log(), ["blob", "blob", "blob", "manifest", "index named"]);
    let nothing = push(&memory, &registry, &root, &wanted("arm64")).await;
    assert_eq!(kind(nothing), ErrorKind::NotFound);
}

#[tokio::test]
async fn layers_are_taken_from_other_repositories_of_the_registry() {
    let mut shelf = Shelf::new();
    let root = shelf.image(&["one", "two"]);
    let (memory, registry) = (filled(&shelf), Registry::default());
    let label = |value: &str| {
        BTreeMap::from([("containerd.io/distribution.source.here".into(), value.to_owned())])
    };
    memory.set_labels(&root.digest, label("a/b,from/manifest")).await.unwrap();
    memory.set_labels(&digest(b"one"), label("a/x,z")).await.unwrap();
    registry.0.lock().unwrap().mountable.push((digest(b"one"), "a/x".into()));
    push(&memory, &registry, &root, &Selection::all()).await.unwrap();
    let mut log = registry.log();
    log.sort_unstable();
    let expected = [
        "blob",
        "blob",
        "manifest named",
        "mount a/x",
        "mount from/manifest",
        "mount from/manifest",
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn what_is_missing_ends_it_before_the_manifest() {
    let mut shelf = Shelf::new();
    let root = shelf.image(&["one", "two"]);
    let (memory, registry) = (filled(&shelf), Registry::default());
    memory.lock().blobs.remove(&digest(b"two"));
    let pushed = push(&memory, &registry, &root, &Selection::all()).await;
    assert_eq!(kind(pushed), ErrorKind::NotFound);
    assert!(!registry.log().contains(&"manifest named".into()));
}
