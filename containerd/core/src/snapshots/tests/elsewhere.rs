//! What another process that keeps snapshots may do, and when.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture};

use super::super::{record::Entry, testing::config};
use super::*;
use crate::{
    content::{Content, ContentConfig, Sharing},
    gc::Collector,
};

/// Another process: it says that it has the target, as those do that fetch
/// layers by themselves, and does what is asked for just before it answers.
#[derive(Clone)]
struct Peer(Arc<Inner>);

struct Inner {
    local: Local,
    /// What the daemon has.
    snapshots: OnceLock<Snapshots>,
    /// What happens before the next answers to calls.
    meanwhile: Mutex<VecDeque<Meanwhile>>,
    /// Whether targets are there.
    lazy: AtomicBool,
}

/// What happens once, when the named call has done its work. One after the other.
struct Meanwhile {
    call: &'static str,
    work: Box<dyn FnOnce(Snapshots) -> BoxFuture<'static, Result<()>> + Send>,
}

impl Peer {
    fn meanwhile<F>(&self, call: &'static str, work: impl FnOnce(Snapshots) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let work = Box::new(|snapshots| work(snapshots).boxed());
        self.0.meanwhile.lock().unwrap().push_back(Meanwhile { call, work });
    }

    /// The answer to a call, after what happens meanwhile.
    async fn answer<T>(&self, call: &str, outcome: Result<T>) -> Result<T> {
        let meanwhile = self.0.meanwhile.lock().unwrap().pop_front_if(|it| it.call == call);
        if let Some(meanwhile) = meanwhile {
            (meanwhile.work)(self.0.snapshots.get().unwrap().clone()).await?;
        }
        outcome
    }
}

#[async_trait]
impl Snapshotter for Peer {
    async fn stat(&self, key: &str) -> Result<Info> {
        let found = self.0.local.stat(key).await;
        self.answer("stat", found).await
    }
    async fn update(&self, key: &str, labels: Labels, paths: &[String]) -> Result<Info> {
        self.0.local.update(key, labels, paths).await
    }
    async fn usage(&self, key: &str) -> Result<Usage> {
        self.0.local.usage(key).await
    }
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.0.local.mounts(key).await
    }
    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let (local, target) = (&self.0.local, labels.get(TARGET_LABEL).cloned());
        let Some(target) = target.filter(|_| self.0.lazy.load(Ordering::Relaxed)) else {
            let made = local.prepare(key, parent, labels).await;
            return self.answer("prepare", made).await;
        };
        let own = format!("own {target}");
        if local.stat(&own).await.is_err() {
            local.prepare(key, parent, labels.clone()).await?;
            local.commit(&own, key, "", labels).await?;
        }
        self.answer("prepare", Err(Error::already_exists("the target"))).await
    }
    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.0.local.view(key, parent, labels).await
    }
    async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let done = self.0.local.commit(name, key, parent, labels).await;
        self.answer("commit", done).await
    }
    async fn remove(&self, key: &str) -> Result<()> {
        self.answer("remove", Ok(())).await?;
        self.0.local.remove(key).await
    }
    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let listed = self.0.local.list(filters).await;
        self.answer("list", listed).await
    }
    async fn cleanup(&self) -> Result<()> {
        self.0.local.cleanup().await
    }
}

/// Snapshots of a peer.
async fn store(lazy: bool) -> (Store, Peer) {
    let mut store = Store::new().await;
    let (db, folder) = (store.world.db.clone(), tempfile::tempdir().unwrap());
    let local = Local::open(config(folder.path(), overlays()), db).await.unwrap();
    let (snapshots, meanwhile) = (OnceLock::new(), Mutex::default());
    let peer = Peer(Arc::new(Inner { local, snapshots, meanwhile, lazy: lazy.into() }));
    store.snapshots = again(&store, &peer).await;
    store.folder = folder;
    assert!(peer.0.snapshots.set(store.snapshots.clone()).is_ok());
    (store, peer)
}

/// As a daemon has them that was started now.
async fn again(store: &Store, peer: &Peer) -> Snapshots {
    let (db, announcer) = (store.world.db.clone(), store.world.announcer.clone());
    let backends = BTreeMap::from([(NAME.to_owned(), Backend::Remote(Arc::new(peer.clone())))]);
    Snapshots::open(db, announcer, backends).await.unwrap()
}

fn for_target(key: &str, target: &str) -> New {
    New { key: key.into(), labels: labels(&[(TARGET_LABEL, target)]), ..New::default() }
}

fn commit(name: &str, key: &str) -> Commit {
    Commit { name: name.into(), key: key.into(), ..Commit::default() }
}

/// Lets `work` run until it has ended, or waits for what somebody has claimed.
async fn until_it_waits(snapshots: &Snapshots, work: impl Future<Output = ()> + Send + 'static) {
    let before = snapshots.claims().waits();
    let work = tokio::spawn(work);
    while !work.is_finished() && snapshots.claims().waits() == before {
        tokio::task::yield_now().await;
    }
}

/// One namespace removes what the other has, too.
#[tokio::test]
async fn what_two_namespaces_have_goes_with_the_last() {
    let (store, peer) = store(true).await;
    let (s, other) = (&store.snapshots, id("other"));
    for (namespace, key) in [(&ns(), "a"), (&other, "b")] {
        let there = s.prepare(namespace, NAME, for_target(key, "base"), None).await;
        assert_eq!(kind(there), Some(ErrorKind::AlreadyExists));
    }
    s.remove(&ns(), NAME, "base", None).await.unwrap();
    s.stat(&other, NAME, "base").await.unwrap();
    s.prepare(&other, NAME, new("top", "base"), None).await.unwrap();
    s.remove(&other, NAME, "top", None).await.unwrap();
    s.remove(&other, NAME, "base", None).await.unwrap();
    assert!(peer.list(&[]).await.unwrap().is_empty());
}

/// It goes between the moment at which the other namespace finds it and that at
/// which it has it: then it is made again.
#[tokio::test]
async fn what_is_removed_while_it_is_adopted_is_made_again() {
    let (store, peer) = store(true).await;
    let (s, other) = (&store.snapshots, id("other"));
    s.prepare(&ns(), NAME, for_target("a", "base"), None).await.unwrap_err();
    // It goes, as nobody claims what it is called by the peer.
    let own = peer.clone();
    peer.meanwhile("list", |_| async move { own.0.local.remove("own base").await });
    let there = s.prepare(&other, NAME, for_target("b", "base"), None).await;
    assert_eq!(kind(there), Some(ErrorKind::AlreadyExists));
    s.stat(&other, NAME, "base").await.unwrap();
}

#[tokio::test]
async fn a_sweep_spares_what_is_being_adopted() {
    let (store, peer) = store(true).await;
    for call in ["prepare", "list"] {
        peer.meanwhile(call, |snapshots| async move { snapshots.sweep(NAME).await });
        let there = store.snapshots.prepare(&ns(), NAME, for_target(call, call), None).await;
        assert_eq!(kind(there), Some(ErrorKind::AlreadyExists));
        assert!(peer.0.meanwhile.lock().unwrap().is_empty());
        store.snapshots.stat(&ns(), NAME, call).await.unwrap();
    }
    store.assert_clean().await;
    // What was spared is not forgotten.
    assert!(store.snapshots.take_unswept().contains(NAME));
}

#[tokio::test]
async fn a_sweep_spares_what_is_being_made() {
    let (store, peer) = store(false).await;
    peer.meanwhile("prepare", |snapshots| async move { snapshots.sweep(NAME).await });
    store.prepare("a", "").await.unwrap();
    peer.meanwhile("commit", |snapshots| async move { snapshots.sweep(NAME).await });
    store.commit("base", "a").await.unwrap();
    store.prepare("b", "base").await.unwrap();
    store.assert_clean().await;
}

#[tokio::test]
async fn whoever_commits_to_a_name_second_keeps_what_it_has() {
    let (store, peer) = store(false).await;
    store.prepare("one", "").await.unwrap();
    store.prepare("two", "").await.unwrap();
    let (lost, outcome) = tokio::sync::oneshot::channel();
    peer.meanwhile("commit", |snapshots| async move {
        let second = snapshots.clone();
        until_it_waits(&snapshots, async move {
            lost.send(kind(second.commit(&ns(), NAME, commit("base", "two"), None).await)).unwrap();
        })
        .await;
        Ok(())
    });
    store.commit("base", "one").await.unwrap();
    assert_eq!(outcome.await.unwrap(), Some(ErrorKind::AlreadyExists));
    store.snapshots.mounts(&ns(), NAME, "two").await.unwrap();
    store.assert_clean().await;
}

#[tokio::test]
async fn what_is_removed_while_it_is_committed_goes_entirely() {
    let (store, peer) = store(false).await;
    store.prepare("a", "").await.unwrap();
    let (removed, outcome) = tokio::sync::oneshot::channel();
    peer.meanwhile("commit", |snapshots| async move {
        let second = snapshots.clone();
        until_it_waits(&snapshots, async move {
            removed.send(kind(second.remove(&ns(), NAME, "a", None).await)).unwrap();
        })
        .await;
        Ok(())
    });
    store.commit("base", "a").await.unwrap();
    // It was committed first.
    assert_eq!(outcome.await.unwrap(), Some(ErrorKind::NotFound));
    store.assert_clean().await;
    assert_eq!(store.keys().await, ["base"]);
}

#[tokio::test]
async fn a_lease_that_goes_does_not_take_a_commit_along() {
    let (store, peer) = store(false).await;
    let (s, leases) = (&store.snapshots, store.world.leases.clone());
    leases.create(&ns(), "lease", BTreeMap::new()).await.unwrap();
    s.prepare(&ns(), NAME, new("a", ""), Some("lease")).await.unwrap();
    peer.meanwhile("commit", |_| async move { leases.delete(&ns(), "lease").await });
    s.commit(&ns(), NAME, commit("base", "a"), Some("lease")).await.unwrap();
    assert_eq!(store.keys().await, ["base"]);
    store.assert_clean().await;

    // One that was never there is told before anything is done.
    store.prepare("b", "").await.unwrap();
    let refused = s.commit(&ns(), NAME, commit("top", "b"), Some("none")).await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));
    s.mounts(&ns(), NAME, "b").await.unwrap();
}

/// The answer of the peer is lost; or its next ones are, too.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_again() {
    let (mut store, peer) = store(false).await;
    store.layer("below", "").await;
    store.prepare("a", "below").await.unwrap();
    peer.meanwhile("commit", |_| async { Err(Error::unavailable("broken")) });
    store.commit("base", "a").await.unwrap();
    assert_eq!(store.keys().await, ["base", "below"]);
    store.assert_clean().await;

    // Nothing can be asked, and then the daemon is killed.
    store.prepare("b", "base").await.unwrap();
    for call in ["commit", "stat"] {
        peer.meanwhile(call, |_| async { Err(Error::unavailable("broken")) });
    }
    assert_eq!(kind(store.commit("top", "b").await), Some(ErrorKind::Unavailable));
    store.snapshots = again(&store, &peer).await;
    store.snapshots.recover().await.unwrap();
    store.snapshots.sweep(NAME).await.unwrap();
    store.assert_clean().await;
    let made = peer.list(&[]).await.unwrap().into_iter().find(|i| i.name.ends_with("/top"));
    // The next try records it, under whatever name.
    store.commit("again", "b").await.unwrap();
    let read = store.world.db.read(|db| record::find(db, &ns(), NAME, "again"));
    assert_eq!(read.await.unwrap().name, made.unwrap().name);
    store.assert_clean().await;
    assert_eq!(store.keys().await, ["again", "base", "below"]);
}

/// What is given up after a commit whose outcome is not known goes entirely.
#[tokio::test]
async fn what_a_lost_commit_made_is_removed_by_its_key() {
    let (store, peer) = store(false).await;
    store.prepare("a", "").await.unwrap();
    let entry = store.world.db.read(|db| record::find(db, &ns(), NAME, "a")).await.unwrap();
    let change = store.world.db.write(move |change| {
        let mut entry = Entry { becoming: "ns/1/base".into(), ..entry };
        record::put(change, &ns(), &mut entry)
    });
    change.await.unwrap();
    let name = peer.list(&[]).await.unwrap().remove(0).name;
    peer.commit("ns/1/base", &name, "", Labels::new()).await.unwrap();
    store.snapshots.remove(&ns(), NAME, "a", None).await.unwrap();
    assert!(peer.list(&[]).await.unwrap().is_empty());
}

/// The disk fails, and nobody knows whether the record is there: it is.
#[tokio::test]
async fn what_may_be_recorded_is_not_discarded() {
    let (store, peer) = store(false).await;
    let db = store.world.db.clone();
    let own = peer.clone();
    peer.meanwhile("prepare", |_| async move {
        let name = own.0.local.list(&[]).await?.remove(0).name;
        db.write(move |change| {
            let mut entry = create::entry(NAME, name, new("a", ""));
            record::put(change, &ns(), &mut entry)
        })
        .await
    });
    store.prepare("a", "").await.unwrap_err();
    store.snapshots.mounts(&ns(), NAME, "a").await.unwrap();
    store.assert_clean().await;

    // But what is not, is.
    let leases = store.world.leases.clone();
    leases.create(&ns(), "lease", BTreeMap::new()).await.unwrap();
    peer.meanwhile("prepare", |_| async move { leases.delete(&ns(), "lease").await });
    let refused = store.snapshots.prepare(&ns(), NAME, new("b", ""), Some("lease")).await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));
    assert_eq!(peer.list(&[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_could_not_be_removed_goes_with_the_next_garbage() {
    let (store, peer) = store(false).await;
    let world = &store.world;
    let folder = tempfile::tempdir().unwrap();
    let config =
        ContentConfig { root: folder.path().to_owned(), sharing: Sharing::Shared, foreign: false };
    let content = Content::open(config, world.db.clone()).await.unwrap();
    let snapshots = Arc::new(store.snapshots.clone());
    let collector = Collector::new(world.db.clone(), world.announcer.clone(), content, snapshots);
    // After the start each is swept once.
    collector.collect().await.unwrap();
    store.prepare("a", "").await.unwrap();
    peer.meanwhile("remove", |_| async { Err(Error::unavailable("busy")) });
    store.snapshots.remove(&ns(), NAME, "a", None).await.unwrap();
    assert_eq!(peer.list(&[]).await.unwrap().len(), 1);
    collector.collect().await.unwrap();
    assert!(peer.list(&[]).await.unwrap().is_empty());
}
