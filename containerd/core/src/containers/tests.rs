//! Containers as clients see them.

use std::{collections::BTreeMap, time::SystemTime};

use shim_protocol::{Error, ErrorKind, Result};

use super::*;
use crate::{
    announce::ObjectEvent,
    namespaces::{DEFAULT_RUNTIME_LABEL, DEFAULT_SNAPSHOTTER_LABEL, Namespace},
    testing::{World, any, container, id, labels},
};

const NONE: &[&str] = &[];

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

/// A container with something in each field.
fn full() -> Container {
    Container {
        labels: labels(&[("a", "1"), ("b.c/d", "2"), ("gone", "")]),
        image: "docker.io/library/redis:7".into(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: Some(any("options")) },
        spec: Some(any("spec")),
        snapshotter: "overlayfs".into(),
        snapshot_key: "redis".into(),
        extensions: BTreeMap::from([("one".into(), any("1")), ("two".into(), any("2"))]),
        sandbox: "pod".into(),
        ..container("redis")
    }
}

#[tokio::test]
async fn what_is_created_is_found_again() {
    let world = World::new();
    let before = SystemTime::now();
    let created = world.containers.create(&id("ns"), full()).await.unwrap();

    assert!(created.created_at >= before && created.created_at == created.updated_at);
    let expected = Container {
        labels: labels(&[("a", "1"), ("b.c/d", "2")]),
        created_at: created.created_at,
        updated_at: created.updated_at,
        ..full()
    };
    assert_eq!(created, expected);
    assert_eq!(world.containers.get(&id("ns"), "redis").await.unwrap(), expected);
    assert_eq!(world.containers.list(&id("ns"), NONE).await.unwrap(), [expected]);

    // The namespace came with it.
    let namespaces = world.namespaces.list(NONE).await.unwrap();
    assert_eq!(namespaces, [Namespace { name: id("ns"), labels: BTreeMap::new() }]);
    let event = ObjectEvent::ContainerCreate {
        id: id("redis"),
        image: full().image,
        runtime: full().runtime,
    };
    assert_eq!(world.events.take(), [(id("ns"), event)]);
}

#[tokio::test]
async fn records_survive_the_daemon() {
    let world = World::new();
    let created = world.containers.create(&id("ns"), full()).await.unwrap();
    world.announcer.shutdown().await;
    world.db.shutdown().await;
    let db = world.disk.open().unwrap();
    let containers = Containers::new(db, world.announcer.clone());
    assert_eq!(containers.get(&id("ns"), "redis").await.unwrap(), created);
}

#[tokio::test]
async fn namespaces_are_apart() {
    let world = World::new();
    let containers = &world.containers;
    for namespace in ["a", "ab", "b"] {
        containers.create(&id(namespace), container("same")).await.unwrap();
    }
    containers.delete(&id("ab"), "same").await.unwrap();
    assert_eq!(containers.list(&id("a"), NONE).await.unwrap().len(), 1);
    assert_eq!(containers.list(&id("ab"), NONE).await.unwrap(), []);
    assert_eq!(kind(containers.get(&id("ab"), "same").await), Some(ErrorKind::NotFound));
    assert_eq!(kind(containers.get(&id("none"), "same").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn a_second_one_of_an_id_is_refused() {
    let world = World::new();
    let first = world.containers.create(&id("ns"), full()).await.unwrap();
    world.events.take();
    let second = world.containers.create(&id("ns"), container("redis")).await;
    assert_eq!(kind(second), Some(ErrorKind::AlreadyExists));
    assert_eq!(world.containers.get(&id("ns"), "redis").await.unwrap(), first);
    assert_eq!(world.events.take(), []);
}

#[tokio::test]
async fn of_many_that_race_for_an_id_one_wins() {
    let world = World::new();
    let racers: Vec<_> = (0..20)
        .map(|_| {
            let containers = world.containers.clone();
            tokio::spawn(async move { containers.create(&id("ns"), container("one")).await })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => winners += 1,
            Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists),
        }
    }
    assert_eq!((winners, world.events.take().len()), (1, 1));
}

#[tokio::test]
async fn bad_ones_are_refused_and_leave_nothing() {
    let world = World::new();
    let long = "x".repeat(4096);
    for bad in [
        Container { runtime: Runtime::default(), ..full() },
        Container { spec: None, ..full() },
        Container { snapshotter: String::new(), ..full() },
        Container { labels: labels(&[("k", &long)]), ..full() },
        Container { extensions: BTreeMap::from([(String::new(), any("x"))]), ..full() },
    ] {
        let refused = world.containers.create(&id("ns"), bad).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    }
    assert_eq!(world.namespaces.list(NONE).await.unwrap(), []);
    assert_eq!(world.events.take(), []);
    // The longest label that is allowed.
    let good = Container { labels: labels(&[("k", &long[1..])]), ..full() };
    world.containers.create(&id("ns"), good).await.unwrap();
}

#[tokio::test]
async fn defaults_come_from_the_labels_of_the_namespace() {
    let world = World::new();
    let defaults =
        [(DEFAULT_RUNTIME_LABEL, "io.example.v1"), (DEFAULT_SNAPSHOTTER_LABEL, "native")];
    let namespace = Namespace { name: id("ns"), labels: labels(&defaults) };
    world.namespaces.create(namespace).await.unwrap();

    let bare = Container { runtime: Runtime::default(), snapshotter: String::new(), ..full() };
    let created = world.containers.create(&id("ns"), bare).await.unwrap();
    assert_eq!(created.runtime.name, "io.example.v1");
    assert_eq!(created.snapshotter, "native");

    let own = world.containers.create(&id("ns"), Container { id: id("own"), ..full() }).await;
    let own = own.unwrap();
    assert_eq!((own.runtime.name, own.snapshotter), (full().runtime.name, full().snapshotter));
}

#[tokio::test]
async fn filters_choose() {
    let world = World::new();
    world.containers.create(&id("ns"), full()).await.unwrap();
    world.containers.create(&id("ns"), container("other")).await.unwrap();
    for (filters, expected) in [
        (&["id==redis"][..], &["redis"][..]),
        (&["image~=redis"], &["redis"]),
        (&["image"], &["redis"]),
        (&["labels.a==1"], &["redis"]),
        (&[r#"labels."b.c/d""#], &["redis"]),
        (&["labels.a!=1"], &["other"]),
        (&["runtime.name==io.containerd.runc.v2"], &["other", "redis"]),
        (&["runtime"], &[]),
        (&["id==redis", "id==other"], &["other", "redis"]),
        (&["id==redis,id==other"], &[]),
    ] {
        let found = world.containers.list(&id("ns"), filters).await.unwrap();
        let found: Vec<_> = found.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(found, expected, "{filters:?}");
    }
    let refused = world.containers.list(&id("ns"), &["id="]).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names() {
    let world = World::new();
    let old = world.containers.create(&id("ns"), full()).await.unwrap();
    world.events.take();
    let wish = Container {
        labels: labels(&[("a", "new"), ("x", "new")]),
        image: "new".into(),
        runtime: Runtime { name: "new".into(), options: None },
        spec: Some(any("new")),
        snapshotter: "new".into(),
        snapshot_key: "new".into(),
        extensions: BTreeMap::from([("one".into(), any("new")), ("x".into(), any("new"))]),
        sandbox: "new".into(),
        ..container("redis")
    };
    let mut expected = old.clone();
    for path in [
        "labels.a",
        "labels.b.c/d",
        "labels",
        "extensions.one",
        "extensions.two",
        "extensions",
        "spec",
        "image",
        "snapshot_key",
    ] {
        match path {
            "labels.a" => drop(expected.labels.insert("a".into(), "new".into())),
            "labels.b.c/d" => drop(expected.labels.remove("b.c/d")),
            "labels" => expected.labels = wish.labels.clone(),
            "extensions.one" => drop(expected.extensions.insert("one".into(), any("new"))),
            "extensions.two" => drop(expected.extensions.remove("two")),
            "extensions" => expected.extensions = wish.extensions.clone(),
            "spec" => expected.spec = wish.spec.clone(),
            "image" => expected.image = wish.image.clone(),
            _ => expected.snapshot_key = wish.snapshot_key.clone(),
        }
        let updated = world.containers.update(&id("ns"), wish.clone(), &[path]).await.unwrap();
        expected.updated_at = updated.updated_at;
        assert_eq!(updated, expected, "{path}");
        assert_eq!(world.containers.get(&id("ns"), "redis").await.unwrap(), expected, "{path}");
        let event = ObjectEvent::ContainerUpdate {
            id: id("redis"),
            image: expected.image.clone(),
            labels: expected.labels.clone(),
            snapshot_key: expected.snapshot_key.clone(),
        };
        assert_eq!(world.events.take(), [(id("ns"), event)], "{path}");
    }
}

#[tokio::test]
async fn an_update_without_a_mask_changes_all_that_may_change() {
    let world = World::new();
    let old = world.containers.create(&id("ns"), full()).await.unwrap();
    let wish = Container { labels: BTreeMap::new(), image: "new".into(), ..full() };
    let updated = world.containers.update(&id("ns"), wish, NONE).await.unwrap();
    assert_eq!((updated.image.as_str(), updated.labels.len()), ("new", 0));
    assert_eq!((updated.runtime, updated.created_at), (old.runtime, old.created_at));

    for fixed in [
        Container { snapshotter: "native".into(), ..full() },
        Container { runtime: Runtime { name: "other".into(), options: None }, ..full() },
    ] {
        let refused = world.containers.update(&id("ns"), fixed, NONE).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    }
}

#[tokio::test]
async fn bad_updates_change_nothing() {
    let world = World::new();
    let old = world.containers.create(&id("ns"), full()).await.unwrap();
    world.events.take();
    for path in ["id", "runtime", "runtime.name", "snapshotter", "sandbox", "created_at", "", "x.y"]
    {
        let refused = world.containers.update(&id("ns"), full(), &["image", path]).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{path}");
    }
    let no_spec = Container { spec: None, ..full() };
    let refused = world.containers.update(&id("ns"), no_spec, &["spec"]).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    let absent = world.containers.update(&id("ns"), container("absent"), &["image"]).await;
    assert_eq!(kind(absent), Some(ErrorKind::NotFound));
    assert_eq!(world.containers.get(&id("ns"), "redis").await.unwrap(), old);
    assert_eq!(world.events.take(), []);
}

#[tokio::test]
async fn what_is_deleted_is_gone() {
    let world = World::new();
    world.containers.create(&id("ns"), full()).await.unwrap();
    world.events.take();
    world.containers.delete(&id("ns"), "redis").await.unwrap();
    let event = ObjectEvent::ContainerDelete { id: id("redis") };
    assert_eq!(world.events.take(), [(id("ns"), event)]);
    for name in ["redis", "", "not/an id"] {
        let gone = world.containers.delete(&id("ns"), name).await;
        assert_eq!(kind(gone), Some(ErrorKind::NotFound), "{name}");
        let gone = world.containers.get(&id("ns"), name).await;
        assert_eq!(kind(gone), Some(ErrorKind::NotFound), "{name}");
    }
    assert_eq!(world.events.take(), []);
}
