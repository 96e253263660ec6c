//! What can be tried without a shim. How containers run is tried from outside.

mod keeper;
mod output;
mod slow;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use containerd_api::events::{
    TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused, TaskStart,
};
use prost::{Message, Name};
use runtime_v2::{Any, Manager, ManagerConfig, Timeouts};
use tokio::sync::Notify;

use super::*;
use crate::{
    containers::Container as StoredContainer,
    content::{Content, ContentConfig, Sharing},
    diff::{Diff, DiffConfig},
    events::{Ending, ExchangeConfig, Happening},
    tasks::TasksConfig,
    testing::{World, container, id},
};

/// Writes an image, and fails or hangs if it is told to.
#[derive(Default)]
struct Fake {
    hangs: AtomicBool,
    asked_now: Notify,
    asked: AtomicUsize,
    fails: AtomicBool,
    writes_nothing: AtomicBool,
}

#[async_trait]
impl Checkpointer for Fake {
    async fn checkpoint(&self, _: &Target, _: &Checkpoint, folder: &Path) -> Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(folder.join("config.json").is_file(), "what fails must fail before");
        if !self.writes_nothing.load(Ordering::Relaxed) {
            fs::write(folder.join("image"), "").unwrap();
        }
        self.asked_now.notify_one();
        if self.hangs.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::precondition("no luck"));
        }
        Ok(())
    }

    async fn restore(&self, folder: &Path) -> Result<Any> {
        Ok(Any { type_url: folder.display().to_string(), value: Vec::new() })
    }
}

/// A daemon without shims.
struct Fixture {
    legacy: Arc<Legacy>,
    events: Arc<Exchange>,
    containers: Containers,
    manager: Arc<Manager>,
    fake: Arc<Fake>,
    folder: tempfile::TempDir,
    _world: World,
}

impl Fixture {
    async fn new() -> Self {
        Self::with_replay(Duration::ZERO).await
    }

    /// For so long after boot those who ask for it hear what was before.
    async fn with_replay(boot_replay: Duration) -> Self {
        Self::with(boot_replay, "io.example.none.v1").await
    }

    async fn with(boot_replay: Duration, runtime: &str) -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let path = |name: &str| folder.path().join(name);
        let journal = ExchangeConfig { journal: path("journal"), boot_replay };
        let events = Exchange::open(journal).unwrap();
        events.serve();
        let manager = ManagerConfig {
            root: path("root"),
            state: path("state"),
            grpc_address: String::new(),
            ttrpc_address: String::new(),
            env: Vec::new(),
            debug: false,
            timeouts: Timeouts::default(),
        };
        let config = TasksConfig {
            default_runtime: "io.example.none.v1".into(),
            state_timeout: Duration::from_secs(1),
            concurrency: 0,
        };
        let content =
            ContentConfig { root: path("content"), sharing: Sharing::default(), foreign: false };
        let content = Content::open(content, world.db.clone()).await.unwrap();
        let containers = world.containers.clone();
        let manager = Manager::new(manager, events.clone());
        let tasks = Tasks::new(
            config,
            containers.clone(),
            world.namespaces.clone(),
            manager.clone(),
            events.clone(),
            Diff::new(DiffConfig { sync: false }, content),
        );
        let config = LegacyConfig {
            namespace: id("legacy"),
            runtime: runtime.into(),
            binary: String::new(),
            id: "box".into(),
            oom_notify: true,
        };
        let fake = Arc::new(Fake::default());
        let legacy = Legacy::new(config, containers.clone(), tasks, events.clone(), fake.clone());
        Self { legacy, events, containers, manager, fake, folder, _world: world }
    }

    /// A container of ours, with a bundle.
    async fn add(&self, name: &str, more: Vec<(String, Any)>) {
        fs::create_dir(self.folder.path().join(name)).unwrap();
        self.add_in(name, name, more).await;
    }

    async fn add_in(&self, bundle: &str, name: &str, more: Vec<(String, Any)>) {
        let bundle = self.folder.path().join(bundle);
        let extensions = more.into_iter().chain([record::bundle(bundle).unwrap()]).collect();
        let stored = StoredContainer { extensions, ..container(name) };
        self.containers.create(&id("legacy"), stored).await.unwrap();
    }

    fn publish<M: Message + Name>(&self, topic: &str, message: &M) {
        let event = Any { type_url: M::full_name(), value: message.encode_to_vec() };
        self.events.publish(&id("legacy"), topic, event).unwrap();
    }
}

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint {
        name: name.into(),
        created: UNIX_EPOCH,
        exit: false,
        tcp: true,
        unix_sockets: false,
        shell: false,
    }
}

fn ending(pid: u32, status: u32, at: u64) -> Ending {
    Ending { pid, status, at: UNIX_EPOCH + Duration::from_secs(at) }
}

fn exit(container: &str, pid: u32, exit_status: u32) -> TaskExit {
    TaskExit {
        container_id: container.into(),
        id: container.into(),
        pid,
        exit_status,
        exited_at: Some((SystemTime::now() + Duration::from_secs(1000)).into()),
    }
}

#[tokio::test]
async fn a_checkpoint_is_whole_or_not_there() {
    let fixture = Fixture::new().await;
    let legacy = &fixture.legacy;
    assert!(legacy.create_checkpoint("a", checkpoint("one")).await.unwrap_err().is_not_found());
    fixture.add("a", Vec::new()).await;
    fixture.fake.fails.store(true, Ordering::Relaxed);
    let failed = legacy.create_checkpoint("a", checkpoint("one")).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(legacy.list_checkpoints("a").await.unwrap(), []);
    let folder = fixture.folder.path().join("a/checkpoints");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

    // What cannot be written down is not begun.
    fs::remove_dir(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    legacy.create_checkpoint("a", checkpoint("one")).await.unwrap_err();
    assert_eq!(fixture.fake.asked.load(Ordering::Relaxed), 1);
    fs::remove_file(&folder).unwrap();

    fixture.fake.fails.store(false, Ordering::Relaxed);
    legacy.create_checkpoint("a", checkpoint("one")).await.unwrap();
    let again = legacy.create_checkpoint("a", checkpoint("one")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let listed = legacy.list_checkpoints("a").await.unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].tcp), ("one", true));
    assert!(listed[0].created > UNIX_EPOCH);
    let folder = fixture.folder.path().join("a/checkpoints/one");
    let options = legacy.restore_from(&fixture.folder.path().join("a"), "one").await.unwrap();
    assert_eq!(options.type_url, folder.display().to_string());
    legacy.delete_checkpoint("a", "one").await.unwrap();
    assert!(!folder.exists());
}

/// CRIU ends it last, and runc may fail after that.
#[tokio::test]
async fn the_image_of_a_container_that_ended_with_it_is_kept() {
    let fixture = Fixture::new().await;
    fixture.add("a", Vec::new()).await;
    fixture.fake.fails.store(true, Ordering::Relaxed);
    let exit = |name| Checkpoint { exit: true, ..checkpoint(name) };
    let failed = fixture.legacy.create_checkpoint("a", exit("one")).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::FailedPrecondition);
    let kept = fixture.folder.path().join("a/checkpoints/.one.new");
    assert!(failed.to_string().contains(kept.to_str().unwrap()), "{failed}");
    assert!(kept.join("image").exists());
    assert_eq!(fixture.legacy.list_checkpoints("a").await.unwrap(), []);

    // Where nothing was written nothing is kept.
    fixture.fake.writes_nothing.store(true, Ordering::Relaxed);
    fixture.legacy.create_checkpoint("a", exit("two")).await.unwrap_err();
    assert!(!kept.with_file_name(".two.new").exists());
}

/// One that was restored is in the bundle of the other.
#[tokio::test(start_paused = true)]
async fn containers_that_share_a_bundle_do_not_sweep_each_others_images() {
    let fixture = Fixture::new().await;
    fixture.add("a", Vec::new()).await;
    std::os::unix::fs::symlink(fixture.folder.path().join("a"), fixture.folder.path().join("b"))
        .unwrap();
    fixture.add_in("b", "b", Vec::new()).await;
    fixture.fake.hangs.store(true, Ordering::Relaxed);
    let ask = |container: &'static str, name: &'static str| {
        let legacy = fixture.legacy.clone();
        tokio::spawn(async move { legacy.create_checkpoint(container, checkpoint(name)).await })
    };
    let first = ask("a", "one");
    fixture.fake.asked_now.notified().await;
    let second = ask("b", "two");
    let legacy = fixture.legacy.clone();
    let third = tokio::spawn(async move { legacy.delete_checkpoint("b", "three").await });
    let begun = fixture.fake.asked_now.notified();
    timeout(Duration::from_secs(1), begun).await.unwrap_err();
    assert!(fixture.folder.path().join("a/checkpoints/.one.new/image").exists());
    fixture.legacy.shutdown().await;
    for asked in [first, second, third] {
        asked.await.unwrap().unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_has_begun_nothing() {
    let fixture = Fixture::new().await;
    fixture.add("a", Vec::new()).await;
    let legacy = &fixture.legacy;
    let held = legacy.locks.hold(&id("a")).await;
    let soon = Duration::from_secs(1);
    let made = legacy.create_checkpoint("a", checkpoint("one"));
    timeout(soon, made).await.unwrap_err();
    timeout(soon, legacy.delete_checkpoint("a", "one")).await.unwrap_err();
    let spec = ProcessSpec { args: vec!["true".into()], ..ProcessSpec::default() };
    timeout(soon, legacy.add_process("a", spec, Streams::default())).await.unwrap_err();
    assert!(legacy.work.is_empty());
    drop(held);
    assert_eq!(fixture.fake.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn records_keep_what_they_are_given() {
    let fixture = Fixture::new().await;
    let spec = ProcessSpec { args: vec!["true".into()], ..ProcessSpec::default() };
    let exec = record::process(&id("x-1"), &spec).unwrap();
    fixture.add("a", vec![exec, record::exit(ending(7, 3, 9)).unwrap()]).await;
    let record = fixture.legacy.record(&id("a")).await.unwrap();
    assert_eq!(record.exit, Some(ending(7, 3, 9)));
    assert_eq!(record.processes[&id("x-1")], spec);
    let target = fixture.legacy.target(&id("a"), Some(id("x-1")));
    fixture.legacy.forget_process(&target).await.unwrap();
    fixture.legacy.forget_process(&target).await.unwrap();
    let record = fixture.legacy.record(&id("a")).await.unwrap();
    assert!(record.processes.is_empty() && record.is_ours());
}

#[tokio::test]
async fn the_unseen_is_told_first_and_once() {
    let fixture = Fixture::new().await;
    fixture.add("a", vec![record::exit(ending(7, 3, 9)).unwrap()]).await;
    fixture.publish("/tasks/start", &TaskStart { container_id: "a".into(), pid: 7 });
    let keeper = Keeper::prepare(fixture.legacy.clone()).await.serve();
    let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
    fixture.publish("/tasks/exit", &exit("a", 7, 3));
    fixture.publish("/tasks/start", &TaskStart { container_id: "b".into(), pid: 8 });
    fixture.publish("/tasks/oom", &TaskOom { container_id: "b".into() });
    fixture.publish("/tasks/exit", &exit("b", 8, 4));
    let mut told = Vec::new();
    while told.len() < 4 {
        let event = events.next().await.unwrap().unwrap();
        told.push((event.kind, event.id.to_string(), event.pid, event.status));
    }
    let wanted = [
        (EventKind::Exit, "a".to_owned(), 7, 3),
        (EventKind::StartContainer, "b".to_owned(), 8, 0),
        (EventKind::Oom, "b".to_owned(), 0, 0),
        (EventKind::Exit, "b".to_owned(), 8, 4),
    ];
    assert_eq!(told, wanted);
    fixture.events.close();
    assert_eq!(events.next().await.unwrap(), None);
    keeper.shutdown().await;
}

#[tokio::test]
async fn what_never_ran_is_taken_away_at_boot_and_what_ended_is_not() {
    let fixture = Fixture::new().await;
    fixture.add("half", Vec::new()).await;
    fixture.add("ended", vec![record::exit(ending(7, 3, 9)).unwrap()]).await;
    let other = container("other");
    fixture.containers.create(&id("legacy"), other).await.unwrap();
    let keeper = Keeper::prepare(fixture.legacy.clone()).await.serve();
    let left = fixture.containers.list::<&str>(&id("legacy"), &[]).await.unwrap();
    assert_eq!(left.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["ended", "other"]);
    let state = fixture.legacy.state().await.unwrap();
    assert_eq!(state.len(), 1);
    assert_eq!((state[0].id.as_str(), state[0].status), ("ended", Status::Stopped(3)));
    assert_eq!(state[0].processes[0].pid, 7);
    keeper.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_hangs_holds_up_no_end_of_the_daemon() {
    let fixture = Fixture::new().await;
    fixture.add("a", Vec::new()).await;
    fixture.fake.hangs.store(true, Ordering::Relaxed);
    let legacy = fixture.legacy.clone();
    let hangs = tokio::spawn(async move {
        let asked = legacy.create_checkpoint("a", checkpoint("one")).await;
        asked.unwrap_err()
    });
    fixture.fake.asked_now.notified().await;
    fixture.legacy.shutdown().await;
    assert_eq!(hangs.await.unwrap().kind(), ErrorKind::Unavailable);
    // A shim may go on writing: it is not for this daemon to remove, nor seen.
    let folder = fixture.folder.path().join("a/checkpoints");
    assert!(folder.join(".one.new/image").exists());
    assert_eq!(fixture.legacy.list_checkpoints("a").await.unwrap(), []);
    assert!(lock(&fixture.legacy.again).is_empty() && fixture.legacy.work.is_empty());
}

#[tokio::test]
async fn a_record_that_makes_no_sense_hides_no_event() {
    let fixture = Fixture::new().await;
    let (name, _) = record::bundle("/".into()).unwrap();
    let garbage = Any { type_url: name.clone(), value: b"{".to_vec() };
    let extensions = [(name, garbage)].into();
    let stored = StoredContainer { extensions, ..container("garbage") };
    fixture.containers.create(&id("legacy"), stored).await.unwrap();
    fixture.add("a", vec![record::exit(ending(7, 3, 9)).unwrap()]).await;
    let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
    let event = events.next().await.unwrap().unwrap();
    assert_eq!((event.kind, event.id.as_str(), event.pid), (EventKind::Exit, "a", 7));
}
