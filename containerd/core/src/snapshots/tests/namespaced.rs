//! What namespaces add: leases, events, labels, targets, garbage.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    place::Place,
    testing::{config, remote},
};
use super::*;
use crate::{announce::ObjectEvent, leases::Resource};

async fn held(store: &Store) -> Vec<String> {
    let found = store.world.leases.resources(&ns(), "lease").await.unwrap();
    assert!(found.iter().all(|held| held.kind == format!("snapshots/{NAME}")), "{found:?}");
    found.into_iter().map(|Resource { id, .. }| id).collect()
}

async fn lease(store: &Store) -> Option<&'static str> {
    store.world.leases.create(&ns(), "lease", BTreeMap::new()).await.unwrap();
    Some("lease")
}

#[tokio::test]
async fn a_lease_holds_what_comes_of_a_snapshot() {
    let store = Store::new().await;
    let (s, lease) = (&store.snapshots, lease(&store).await);
    s.prepare(&ns(), NAME, new("a", ""), lease).await.unwrap();
    assert_eq!(held(&store).await, ["a"]);
    let commit = |name: &str| Commit { name: name.into(), key: "a".into(), ..Commit::default() };
    s.commit(&ns(), NAME, commit("base"), lease).await.unwrap();
    assert_eq!(held(&store).await, ["base"]);
    s.view(&ns(), NAME, new("view", "base"), lease).await.unwrap();
    assert_eq!(held(&store).await, ["base", "view"]);
    s.remove(&ns(), NAME, "view", lease).await.unwrap();
    assert_eq!(held(&store).await, ["base"]);

    // What is there already is held too, so that it does not go meanwhile.
    store.prepare("other", "").await.unwrap();
    let taken = s.prepare(&ns(), NAME, new("other", ""), lease).await;
    assert_eq!(kind(taken), Some(ErrorKind::AlreadyExists));
    assert_eq!(held(&store).await, ["base", "other"]);
    s.prepare(&ns(), NAME, new("a", ""), None).await.unwrap();
    store.layer("second", "").await;
    let taken = s.commit(&ns(), NAME, commit("second"), lease).await;
    assert_eq!(kind(taken), Some(ErrorKind::AlreadyExists));
    assert_eq!(held(&store).await, ["base", "other", "second"]);

    let none = s.prepare(&ns(), NAME, new("new", ""), Some("none")).await;
    assert_eq!(kind(none), Some(ErrorKind::NotFound));
    assert!(!store.keys().await.contains(&"new".to_owned()));
    store.assert_clean().await;
}

/// Whoever comes second with a name goes on with what the first one made, so its
/// lease holds that.
#[tokio::test]
async fn the_loser_of_a_commit_holds_what_won() {
    let store = Store::new().await;
    let s = &store.snapshots;
    for lease in ["winner", "lease"] {
        store.world.leases.create(&ns(), lease, BTreeMap::new()).await.unwrap();
        s.prepare(&ns(), NAME, new(lease, ""), Some(lease)).await.unwrap();
    }
    let commit = |key: &str| Commit { name: "base".into(), key: key.into(), ..Commit::default() };
    // As when both find the name free.
    let place = Place::new(&ns(), NAME, Some("lease"));
    let old = store.world.db.read(|db| record::find(db, &ns(), NAME, "lease")).await.unwrap();
    s.commit(&ns(), NAME, commit("winner"), Some("winner")).await.unwrap();
    let backend = s.get(NAME).unwrap().clone();
    let lost = s.commit_to(&backend, place, commit("lease"), old, String::new()).await;
    assert_eq!(kind(lost), Some(ErrorKind::AlreadyExists));
    assert_eq!(held(&store).await, ["base", "lease"]);
    s.mounts(&ns(), NAME, "lease").await.unwrap();
    store.assert_clean().await;
}

#[tokio::test]
async fn what_is_gone_is_not_held() {
    let store = Store::new().await;
    let (s, lease) = (&store.snapshots, lease(&store).await);
    for lease in [lease, None] {
        store.layer("base", "").await;
        let place = Place::new(&ns(), NAME, lease);
        let taken = s.hold_existing(&place, "base").await.unwrap().unwrap();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        s.remove(&ns(), NAME, "base", lease).await.unwrap();
        if lease.is_some() {
            assert!(s.hold_existing(&place, "base").await.unwrap().is_none());
            assert_eq!(held(&store).await, Vec::<String>::new());
        }
    }
}

/// The parent that a commit found may be gone when it is recorded.
#[tokio::test]
async fn a_commit_gets_no_parent_that_is_gone() {
    let store = Store::new().await;
    let s = &store.snapshots;
    store.layer("base", "").await;
    store.prepare("a", "").await.unwrap();
    let find =
        |key: &'static str| store.world.db.read(move |db| record::find(db, &ns(), NAME, key));
    let (base, old) = (find("base").await.unwrap(), find("a").await.unwrap());
    // As the collector does it: what the snapshotter has goes later.
    forget(&store, &["base"]).await;
    let commit = || Commit {
        name: "top".into(),
        key: "a".into(),
        parent: "base".into(),
        ..Commit::default()
    };
    let backend = s.get(NAME).unwrap().clone();
    let place = Place::new(&ns(), NAME, None);
    let parent = base.name.clone();
    let refused = s.commit_to(&backend, place.clone(), commit(), old.clone(), parent).await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));
    store.layer("base", "").await;
    let refused = s.commit_to(&backend, place, commit(), old, base.name).await;
    assert_eq!(kind(refused), Some(ErrorKind::Aborted));
    assert_eq!(store.keys().await, ["a", "base"]);
    s.commit(&ns(), NAME, commit(), None).await.unwrap();
    s.sweep(NAME).await.unwrap();
    store.assert_clean().await;
}

#[tokio::test]
async fn changes_are_announced() {
    let store = Store::new().await;
    store.prepare("a", "").await.unwrap();
    store.commit("base", "a").await.unwrap();
    store.prepare("b", "base").await.unwrap();
    store.snapshots.view(&ns(), NAME, new("view", "base"), None).await.unwrap();
    store.prepare("b", "base").await.unwrap_err();
    store.snapshots.remove(&ns(), NAME, "b", None).await.unwrap();
    let snapshotter = || NAME.to_owned();
    let prepare = |key: &str, parent: &str| ObjectEvent::SnapshotPrepare {
        snapshotter: snapshotter(),
        key: key.into(),
        parent: parent.into(),
    };
    let expected = [
        prepare("a", ""),
        ObjectEvent::SnapshotCommit {
            snapshotter: snapshotter(),
            key: "a".into(),
            name: "base".into(),
        },
        prepare("b", "base"),
        ObjectEvent::SnapshotRemove { snapshotter: snapshotter(), key: "b".into() },
    ];
    assert_eq!(store.world.events.take(), expected.map(|event| (ns(), event)));
}

#[tokio::test]
async fn namespaces_do_not_meet() {
    let store = Store::new().await;
    let (s, other) = (&store.snapshots, id("other"));
    store.layer("base", "").await;
    assert_eq!(kind(s.stat(&other, NAME, "base").await), Some(ErrorKind::NotFound));
    let missing = s.prepare(&other, NAME, new("a", "base"), None).await;
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
    let mounts = s.prepare(&other, NAME, new("base", ""), None).await.unwrap();
    assert_ne!(mounts[0].source, store.prepare("a", "").await.unwrap()[0].source);
    assert_eq!(s.stat(&other, NAME, "base").await.unwrap().kind, Kind::Active);
    assert_eq!(s.stat(&ns(), NAME, "base").await.unwrap().kind, Kind::Committed);
    s.remove(&other, NAME, "base", None).await.unwrap();
    assert_eq!(store.keys().await, ["a", "base"]);
}

#[tokio::test]
async fn only_some_labels_are_told_to_the_snapshotter() {
    let store = Store::new().await;
    let pairs =
        [("mine", "1"), ("containerd.io/snapshot/theirs", "2"), ("containerd.io/gc.root", "3")];
    let new = New { key: "a".into(), labels: labels(&pairs), ..New::default() };
    store.snapshots.prepare(&ns(), NAME, new, None).await.unwrap();
    assert_eq!(store.snapshots.stat(&ns(), NAME, "a").await.unwrap().labels, labels(&pairs));
    let backend = store.snapshots.get(NAME).unwrap().snapshotter();
    let told = backend.list(&[]).await.unwrap();
    assert_eq!(told[0].labels, labels(&pairs[1..2]));
    assert!(told[0].name.starts_with("ns/") && told[0].name.ends_with("/a"), "{}", told[0].name);

    let long = "x".repeat(5000);
    let new = New { key: "b".into(), labels: labels(&[("k", &long)]), ..New::default() };
    let refused = store.snapshots.prepare(&ns(), NAME, new, None).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    assert_eq!(store.folders(), ["1"]);
}

#[tokio::test]
async fn an_unknown_snapshotter_is_an_invalid_argument() {
    let store = Store::new().await;
    for name in ["", "none"] {
        let refused = store.snapshots.stat(&ns(), name, "a").await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    }
    assert_eq!(store.snapshots.names().collect::<Vec<_>>(), [NAME]);
}

#[tokio::test]
async fn what_a_target_names_is_not_made_again() {
    let store = Store::new().await;
    let lease = lease(&store).await;
    let target = |key: &str| New {
        key: key.into(),
        labels: labels(&[(TARGET_LABEL, "base")]),
        ..New::default()
    };
    store.snapshots.prepare(&ns(), NAME, target("a"), None).await.unwrap();
    store.commit("base", "a").await.unwrap();
    let there = store.snapshots.prepare(&ns(), NAME, target("b"), lease).await;
    assert_eq!(kind(there), Some(ErrorKind::AlreadyExists));
    assert_eq!(store.keys().await, ["base"]);
    assert_eq!(held(&store).await, ["base"]);
}

/// Says that it has the target, as snapshotters do that fetch layers by
/// themselves.
struct Lazy(Local);

#[async_trait]
impl Snapshotter for Lazy {
    async fn stat(&self, key: &str) -> Result<Info> {
        self.0.stat(key).await
    }
    async fn update(&self, key: &str, labels: Labels, paths: &[String]) -> Result<Info> {
        self.0.update(key, labels, paths).await
    }
    async fn usage(&self, key: &str) -> Result<Usage> {
        self.0.usage(key).await
    }
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.0.mounts(key).await
    }
    async fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        let Some(target) = labels.get(TARGET_LABEL).cloned() else {
            return self.0.prepare(key, parent, labels).await;
        };
        self.0.prepare(key, parent, labels.clone()).await?;
        self.0.commit(&format!("own {target}"), key, "", labels).await?;
        Err(Error::already_exists("the target"))
    }
    async fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<Mount>> {
        self.0.view(key, parent, labels).await
    }
    async fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        self.0.commit(name, key, parent, labels).await
    }
    async fn remove(&self, key: &str) -> Result<()> {
        self.0.remove(key).await
    }
    async fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        self.0.list(filters).await
    }
    async fn cleanup(&self) -> Result<()> {
        self.0.cleanup().await
    }
}

#[tokio::test]
async fn what_the_snapshotter_has_already_is_adopted() {
    let mut store = Store::new().await;
    let folder = tempfile::tempdir().unwrap();
    let local = Local::open(config(folder.path(), overlays()), store.world.db.clone()).await;
    let lazy = Backend::Remote(std::sync::Arc::new(Lazy(local.unwrap())));
    let backends = BTreeMap::from([(NAME.to_owned(), lazy)]);
    let (db, announcer) = (store.world.db.clone(), store.world.announcer.clone());
    store.snapshots = Snapshots::open(db, announcer, backends).await.unwrap();
    let lease = lease(&store).await;
    for (key, target, parent) in [("a", "one", ""), ("b", "two", "one")] {
        let labels = labels(&[(TARGET_LABEL, target), ("mine", "1")]);
        let new = New { key: key.into(), parent: parent.into(), labels };
        let there = store.snapshots.prepare(&ns(), NAME, new, lease).await;
        assert_eq!(kind(there), Some(ErrorKind::AlreadyExists));
        let info = store.snapshots.stat(&ns(), NAME, target).await.unwrap();
        assert_eq!((info.kind, info.parent.as_str()), (Kind::Committed, parent));
        assert_eq!(info.labels["mine"], "1");
    }
    assert_eq!(store.keys().await, ["one", "two"]);
    assert_eq!(held(&store).await, ["one", "two"]);
    store.assert_clean().await;
}

/// Removes records as the collector does.
async fn forget(store: &Store, keys: &'static [&'static str]) {
    let change = store.world.db.write(move |change| {
        keys.iter().try_for_each(|key| record::remove(change, &ns(), NAME, key))
    });
    change.await.unwrap();
}

#[tokio::test]
async fn a_sweep_takes_what_no_record_names() {
    let mut store = Store::new().await;
    for remote_kind in [false, true] {
        if remote_kind {
            let folder = tempfile::tempdir().unwrap();
            let db = store.world.db.clone();
            let local = Local::open(config(folder.path(), overlays()), db.clone()).await.unwrap();
            let announcer = store.world.announcer.clone();
            store.snapshots = Snapshots::open(db, announcer, remote(local)).await.unwrap();
            store.folder = folder;
        }
        store.layer("one", "").await;
        store.layer("two", "one").await;
        store.prepare("a", "two").await.unwrap();
        store.layer("kept", "").await;
        store.snapshots.sweep(NAME).await.unwrap();
        assert_eq!(store.keys().await, ["a", "kept", "one", "two"]);
        forget(&store, &["a", "two", "one"]).await;
        store.snapshots.sweep(NAME).await.unwrap();
        store.assert_clean().await;
        store.snapshots.shutdown().await;
        let left: BTreeSet<_> = store.folders().into_iter().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        forget(&store, &["kept"]).await;
    }
}
