//! Passes over random graphs, compared with the model; and passes while others
//! write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_images::{Algorithm, Descriptor, media_type::OCI_MANIFEST};
use shim_protocol::{ErrorKind, Id, Result};
use tempfile::TempDir;

use super::{
    collect::{Found, find, remove},
    model::{Model, Name, digest, snapshotter, text},
    *,
};
use crate::{
    announce::ObjectEvent,
    content::{Content, ContentConfig, Digest, Ingestion, Sharing},
    images::Image,
    leases::Resource,
    metadata::{Change, testing::Random},
    snapshots::{Backend, Commit, Layout, Local, LocalConfig, New, OverlayConfig, Snapshots},
    testing::{World, id, labels},
};

const NONE: &[&str] = &[];
const NAME: &str = "overlayfs";

/// A world with content on disk, and a collector.
struct Yard {
    world: World,
    folder: TempDir,
    content: Content,
    collector: Collector,
    swept: Arc<Swept>,
}

/// Snapshotters that only note that they were swept.
#[derive(Default)]
struct Swept(Mutex<BTreeSet<String>>);

#[async_trait]
impl SweepSnapshots for Swept {
    fn names(&self) -> Vec<String> {
        model::SNAPSHOTTERS.map(str::to_owned).into()
    }

    async fn sweep(&self, snapshotter: &str) -> Result<()> {
        self.0.lock().unwrap().insert(snapshotter.to_owned());
        Ok(())
    }
}

impl Yard {
    async fn new() -> Self {
        Self::with(false).await
    }

    async fn with(foreign: bool) -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let root = folder.path().to_owned();
        let config = ContentConfig { root, sharing: Sharing::Shared, foreign };
        let content = Content::open(config, world.db.clone()).await.unwrap();
        let swept = Arc::new(Swept::default());
        let collector = Collector::new(
            world.db.clone(),
            world.announcer.clone(),
            content.clone(),
            swept.clone(),
        );
        Self { world, folder, content, collector, swept }
    }

    fn blobs(&self) -> BTreeSet<String> {
        let folder = self.folder.path().join("blobs/sha256");
        let names = fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn put(&self, namespace: &Id, text: &str, lease: Option<&str>) -> Digest {
        let ingestion = Ingestion {
            reference: text.to_owned(),
            lease: lease.map(str::to_owned),
            ..Ingestion::default()
        };
        let mut writer = self.content.writer(namespace, ingestion).await.unwrap();
        writer.write(text.to_owned()).await.unwrap();
        writer.commit(0, None, BTreeMap::new()).await.unwrap()
    }

    /// Brings what may be there, or be brought by somebody else meanwhile.
    async fn fetch(&self, namespace: &Id, reference: &str, text: &str, lease: &str) -> Digest {
        let expected = Digest::of(Algorithm::Sha256, text.as_bytes());
        let ingestion = Ingestion {
            reference: reference.to_owned(),
            expected: Some(expected.clone()),
            lease: Some(lease.to_owned()),
            total: 0,
        };
        let written = async {
            let mut writer = self.content.writer(namespace, ingestion).await?;
            if writer.status()?.offset == 0 {
                writer.write(text.to_owned()).await?;
            }
            writer.commit(0, Some(expected.clone()), BTreeMap::new()).await
        };
        match written.await {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => panic!("{e:?}"),
            _ => expected,
        }
    }

    async fn has(&self, namespace: &Id, digest: &Digest) -> bool {
        match self.content.read(namespace, digest).await {
            Ok(_) => true,
            Err(e) if e.is_not_found() => false,
            Err(e) => panic!("{e:?}"),
        }
    }

    async fn name(&self, namespace: &Id, name: &str, digest: &Digest) {
        let image = Image::new(name, Descriptor::new(OCI_MANIFEST, digest.clone(), 1));
        self.world.images.create(namespace, image, None, None).await.unwrap();
    }
}

/// Snapshots on disk, of one snapshotter.
async fn overlays(world: &World, root: &Path) -> Snapshots {
    let config = LocalConfig {
        name: NAME.into(),
        root: root.to_owned(),
        layout: Layout::Overlay(OverlayConfig::default()),
        foreign: false,
        sync_remove: false,
    };
    let local = Local::open(config, world.db.clone()).await.unwrap();
    let backends = BTreeMap::from([(NAME.to_owned(), Backend::Local(local))]);
    Snapshots::open(world.db.clone(), world.announcer.clone(), backends).await.unwrap()
}

/// What the numbers of a run follow from, for who wants to see one again.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    match std::env::var("CONTAINERD_TESTS_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}

#[tokio::test]
async fn one_pass_removes_what_the_model_says() {
    for seed in seeds(120) {
        let random = &mut Random::new(seed);
        let yard = Yard::new().await;
        let names = &["a", "a-b", "b"][..1 + random.below(3)];
        let models: Vec<_> = names.iter().map(|name| Model::random(name, random)).collect();
        let written = models.clone();
        let write = move |change: &mut Change<'_>| {
            written.iter().try_for_each(|model| model.write_all(change))
        };
        yard.world.db.write(write).await.unwrap();
        for model in &models {
            for name in model.collectable() {
                if let Name::Content(number) = name {
                    let path = format!("blobs/sha256/{}", digest(number).hex());
                    fs::write(yard.folder.path().join(path), "").unwrap();
                }
            }
        }

        let collected = yard.collector.collect().await.unwrap();
        let (mut blobs, mut events, mut removed) = (BTreeSet::new(), BTreeSet::new(), 0);
        for model in &models {
            let (expected, asked) = (model.in_use(), model.clone());
            let found = yard.world.db.read(move |db| asked.recorded(db)).await.unwrap();
            assert_eq!(found, expected, "seed {seed}: {model:#?}");
            for name in &expected {
                if let Name::Content(number) = name {
                    blobs.insert(digest(*number).hex().to_owned());
                }
            }
            for name in model.collectable().difference(&expected) {
                removed += 1;
                events.extend(announced(*name).map(|what| (model.namespace.clone(), what)));
            }
        }
        assert_eq!(yard.blobs(), blobs, "seed {seed}");
        let told = yard.world.events.take().into_iter();
        let told: Vec<_> = told.map(|(namespace, event)| (namespace, describe(event))).collect();
        assert_eq!(told.len(), events.len(), "seed {seed}: each is told once");
        assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), events, "seed {seed}");
        let Collected { leases, images, content, snapshots, .. } = collected;
        assert_eq!(leases + images + content + snapshots, removed, "seed {seed}");
        // The first pass looks at all of them.
        assert_eq!(yard.swept.0.lock().unwrap().len(), 2, "seed {seed}");

        let again = yard.collector.collect().await.unwrap();
        let nothing = Collected { elapsed: again.elapsed, ..Collected::default() };
        assert_eq!(again, nothing, "seed {seed}");
    }
}

fn announced(name: Name) -> Option<String> {
    match name {
        Name::Image(_) => Some(text(name)),
        Name::Snapshot(_) => Some(format!("{}/{}", snapshotter(name), text(name))),
        _ => None,
    }
}

fn describe(event: ObjectEvent) -> String {
    match event {
        ObjectEvent::ImageDelete { name } => name,
        ObjectEvent::SnapshotRemove { snapshotter, key } => format!("{snapshotter}/{key}"),
        other => panic!("{other:?}"),
    }
}

/// All that can happen between the marks and the removal.
#[tokio::test]
async fn what_changes_meanwhile_is_taken_into_account() {
    let (mut kept, mut gone) = (0, 0);
    for seed in seeds(200) {
        let random = &mut Random::new(seed);
        let world = World::new();
        let before = Model::random("ns", random);
        let written = before.clone();
        world.db.write(move |change| written.write_all(change)).await.unwrap();

        let watching = world.db.watch().await.unwrap();
        let now = SystemTime::now();
        let Found { marks, garbage } =
            world.db.read(move |db| find(db, &id("ns"), now)).await.unwrap();
        let (mut after, mut changed, mut steps) = (before.clone(), BTreeSet::new(), Vec::new());
        for _ in 0..1 + random.below(8) {
            let name = after.change(random);
            changed.insert(name);
            steps.push((after.clone(), name));
        }
        let changes = move |change: &mut Change<'_>| {
            steps.iter().try_for_each(|(model, name)| model.write(change, *name))
        };
        world.db.write(changes).await.unwrap();
        let removal = move |change: &mut Change<'_>| {
            remove(change, &id("ns"), Found { marks, garbage }, &watching.take()).map(drop)
        };
        world.db.write(removal).await.unwrap();

        let asked = after.clone();
        let found = world.db.read(move |db| asked.recorded(db)).await.unwrap();
        let (used_before, used_after) = (before.in_use(), after.in_use_with(&changed));
        let lost: Vec<_> = used_after.difference(&found).collect();
        assert!(lost.is_empty(), "seed {seed}: lost {lost:?} of {before:#?}, then {after:#?}");
        for name in before.collectable() {
            let garbage = !used_before.contains(&name) && !used_after.contains(&name);
            if garbage && !changed.contains(&name) {
                // What was in use for a moment may stay until the next pass.
                gone += usize::from(!found.contains(&name));
                kept += usize::from(found.contains(&name));
            }
        }
    }
    if seeds(2).count() > 1 {
        assert!(gone > 200 && kept * 20 < gone, "{gone} gone, {kept} kept");
    }
}

#[tokio::test]
async fn what_a_snapshot_is_made_on_meanwhile_stays_with_it() {
    let (world, folder, ns) = (World::new(), tempfile::tempdir().unwrap(), id("ns"));
    let snapshots = overlays(&world, folder.path()).await;
    let layer = async |name: &str, parent: &str| {
        let new = New { key: "writable".into(), parent: parent.into(), ..New::default() };
        snapshots.prepare(&ns, NAME, new, None).await.unwrap();
        let commit = Commit { name: name.into(), key: "writable".into(), ..Commit::default() };
        snapshots.commit(&ns, NAME, commit, None).await.unwrap();
    };
    let keys = async || {
        let found = snapshots.list(&ns, NAME, NONE).await.unwrap();
        found.into_iter().map(|info| info.name).collect::<Vec<_>>()
    };
    layer("base", "").await;
    layer("middle", "base").await;
    layer("unrelated", "base").await;
    for kept in [&["base", "child", "middle"][..], &[]] {
        let watching = world.db.watch().await.unwrap();
        let now = SystemTime::now();
        let found = world.db.read(move |db| find(db, &id("ns"), now)).await.unwrap();
        if !kept.is_empty() {
            let child = New { key: "child".into(), parent: "middle".into(), ..New::default() };
            snapshots.prepare(&ns, NAME, child, None).await.unwrap();
        }
        let removal = move |change: &mut Change<'_>| {
            remove(change, &id("ns"), found, &watching.take()).map(drop)
        };
        world.db.write(removal).await.unwrap();
        // The next pass takes it for what it is, if nothing refers to it by then.
        assert_eq!(keys().await, kept);
    }
    snapshots.shutdown().await;
}

/// Clients that pull, tag, move and delete, as fast as they can, while one pass
/// follows the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_loses_what_is_in_use() {
    let yard = Arc::new(Yard::new().await);
    let over = Arc::new(AtomicBool::new(false));
    let passes = tokio::spawn({
        let (yard, over) = (yard.clone(), over.clone());
        async move {
            let mut collected = Collected::default();
            while !over.load(Ordering::Relaxed) {
                let pass = yard.collector.collect().await.unwrap();
                collected.content += pass.content;
                collected.images += pass.images;
                tokio::task::yield_now().await;
            }
            collected
        }
    });
    let clients = (0..4).map(|client| tokio::spawn(pull_and_delete(yard.clone(), client)));
    let clients: Vec<_> = clients.collect();
    let mut kept = BTreeMap::<Id, BTreeSet<String>>::new();
    for client in clients {
        for (namespace, digest) in client.await.unwrap() {
            kept.entry(namespace).or_default().insert(digest.to_string());
        }
    }
    over.store(true, Ordering::Relaxed);
    let collected = passes.await.unwrap();
    assert!(collected.content > 0, "{collected:?}");

    yard.collector.collect().await.unwrap();
    let mut blobs = BTreeSet::new();
    for (namespace, expected) in &kept {
        let found = yard.content.list(namespace, NONE).await.unwrap();
        let found: BTreeSet<_> = found.iter().map(|info| info.digest.to_string()).collect();
        assert_eq!(&found, expected);
        blobs.extend(found.iter().map(|digest| digest.split_once(':').unwrap().1.to_owned()));
        let leases = yard.world.leases.list(namespace, NONE).await.unwrap();
        assert_eq!(leases, []);
    }
    assert_eq!(yard.blobs(), blobs);
}

/// Answers what must be there at the end.
async fn pull_and_delete(yard: Arc<Yard>, client: u64) -> Vec<(Id, Digest)> {
    let random = &mut Random::new(client);
    let (leases, images) = (&yard.world.leases, &yard.world.images);
    let mut kept = Vec::new();
    for round in 0..40 {
        // Two clients in a namespace, and all share some layers.
        let namespace = id(["a", "b"][random.below(2)]);
        let name = format!("client {client} round {round}");
        let lease = leases.create(&namespace, &name, BTreeMap::new()).await.unwrap().id;
        let shared = ["layer 1", "layer 2", "layer 3"][random.below(3)];
        let layer = yard.fetch(&namespace, &format!("{name} {shared}"), shared, &lease).await;
        assert!(yard.has(&namespace, &layer).await, "{name}: layer");
        let config = yard.put(&namespace, &format!("config of {name}"), Some(&lease)).await;
        let manifest = yard.put(&namespace, &format!("manifest of {name}"), Some(&lease)).await;
        let pairs = [
            ("containerd.io/gc.ref.content.config", config.to_string()),
            ("containerd.io/gc.ref.content.l.0", layer.to_string()),
        ];
        let refs = pairs.map(|(key, value)| (key.to_owned(), value));
        yard.content.update(&namespace, &manifest, refs.clone().into(), NONE).await.unwrap();
        yard.name(&namespace, &name, &manifest).await;
        leases.delete(&namespace, &lease).await.unwrap();
        let all = [&layer, &config, &manifest];
        for digest in all {
            assert!(yard.has(&namespace, digest).await, "{name}: {digest}");
        }
        if random.below(2) == 0 {
            // Another manifest takes over, and the first one lets go.
            let lease = leases.create(&namespace, "", BTreeMap::new()).await.unwrap().id;
            let heir = yard.put(&namespace, &format!("heir of {name}"), Some(&lease)).await;
            yard.name(&namespace, &format!("{name}, too"), &heir).await;
            yard.content.update(&namespace, &heir, refs.into(), NONE).await.unwrap();
            images.delete(&namespace, &name, None, None).await.unwrap();
            leases.delete(&namespace, &lease).await.unwrap();
            for digest in [&layer, &config, &heir] {
                assert!(yard.has(&namespace, digest).await, "{name}, too: {digest}");
            }
            kept.extend([layer, config, heir].map(|digest| (namespace.clone(), digest)));
        } else if random.below(2) == 0 {
            images.delete(&namespace, &name, None, None).await.unwrap();
        } else {
            kept.extend([layer, config, manifest].map(|digest| (namespace.clone(), digest)));
        }
    }
    kept
}

#[tokio::test]
async fn an_ingest_goes_with_its_lease_or_after_a_day() {
    let yard = Yard::new().await;
    let (ns, leases) = (id("ns"), &yard.world.leases);
    leases.create(&ns, "l", BTreeMap::new()).await.unwrap();
    let begin = async |reference: &str, lease: Option<&str>| {
        let ingestion = Ingestion {
            reference: reference.to_owned(),
            lease: lease.map(str::to_owned),
            ..Ingestion::default()
        };
        let mut writer = yard.content.writer(&ns, ingestion).await.unwrap();
        writer.write("beginning").await.unwrap();
        writer
    };
    let statuses = async || {
        let found = yard.content.statuses(&ns, NONE).await.unwrap();
        found.into_iter().map(|status| status.reference).collect::<Vec<_>>()
    };
    drop(begin("leased", Some("l")).await);
    drop(begin("leased, then not", Some("l")).await);
    drop(begin("not", None).await);
    let open = begin("open", Some("l")).await;
    // The lease ends for one that goes on without it.
    let held = Resource { id: "leased, then not".into(), kind: "ingests".into() };
    leases.delete_resource(&ns, "l", held).await.unwrap();
    drop(begin("leased, then not", None).await);
    let all = ["leased", "leased, then not", "not", "open"];
    assert_eq!(yard.collector.collect().await.unwrap().ingests, 0);
    assert_eq!(statuses().await, all);
    leases.delete(&ns, "l").await.unwrap();
    assert_eq!(yard.collector.collect().await.unwrap().ingests, 1);
    assert_eq!(statuses().await, &all[1..]);
    drop(open);

    let tomorrow = SystemTime::now() + Duration::from_secs(25 * 60 * 60);
    assert_eq!(yard.content.sweep_ingests(tomorrow).await.unwrap(), 3);
    assert_eq!(fs::read_dir(yard.folder.path().join("ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn blobs_that_others_may_know_stay() {
    let yard = Yard::with(true).await;
    let digest = yard.put(&id("ns"), "content", None).await;
    drop(yard.content.writer(&id("ns"), Ingestion { reference: "r".into(), ..Default::default() }));
    let collected = yard.collector.collect().await.unwrap();
    assert_eq!((collected.content, collected.ingests), (1, 0));
    assert!(!yard.has(&id("ns"), &digest).await);
    assert_eq!(yard.blobs(), [digest.hex().to_owned()].into());
}

#[tokio::test]
async fn what_is_asked_for_is_done_before_the_answer() {
    let yard = Yard::new().await;
    let digest = yard.put(&id("ns"), "content", None).await;
    yard.name(&id("ns"), "i", &digest).await;
    let Yard { world, content, collector, .. } = yard;
    let config = SchedulerConfig { startup_delay: Duration::from_secs(3600), ..Default::default() };
    let scheduler = Scheduler::start(config, collector);
    scheduler.collect().await.unwrap();
    content.info(&id("ns"), &digest).await.unwrap();
    world.images.delete(&id("ns"), "i", None, None).await.unwrap();
    let collected = scheduler.collect().await.unwrap();
    assert_eq!(collected.content, 1);
    assert!(content.info(&id("ns"), &digest).await.unwrap_err().is_not_found());
    let passes = scheduler.passes();
    assert_eq!((passes.succeeded.count, passes.failed), (2, 0));
    scheduler.shutdown().await;
    scheduler.shutdown().await;
    let refused = scheduler.collect().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_deletion_is_reason_enough() {
    let yard = Yard::new().await;
    let digest = yard.put(&id("ns"), "content", None).await;
    yard.name(&id("ns"), "i", &digest).await;
    let Yard { world, content, collector, .. } = yard;
    let config = SchedulerConfig { startup_delay: Duration::ZERO, ..Default::default() };
    let scheduler = Scheduler::start(config, collector);
    // Neither an update nor a new object is.
    let named = labels(&[("k", "v")]);
    content.update(&id("ns"), &digest, named, NONE).await.unwrap();
    world.images.delete(&id("ns"), "i", None, None).await.unwrap();
    // There is nothing else to be waited for: the pass is asked for by nobody.
    while content.info(&id("ns"), &digest).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scheduler.shutdown().await;
}
