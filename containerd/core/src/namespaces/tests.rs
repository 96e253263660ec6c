//! Namespaces as clients see them.

use std::collections::BTreeMap;

use shim_protocol::{Error, ErrorKind, Result};

use super::*;
use crate::{
    announce::ObjectEvent,
    content::{Algorithm, Digest},
    images::{Descriptor, Image},
    leases::Resource,
    metadata::{Change, Db, Key, schema::SNAPSHOTS},
    testing::{World, container, id, labels},
};

const NONE: &[&str] = &[];

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn namespace(name: &str, pairs: &[(&str, &str)]) -> Namespace {
    Namespace { name: id(name), labels: labels(pairs) }
}

#[tokio::test]
async fn what_is_created_is_found_again() {
    let World { namespaces, events, .. } = World::new();
    let made = namespaces.create(namespace("b", &[("k", "v"), ("gone", "")])).await.unwrap();
    assert_eq!(made, namespace("b", &[("k", "v")]));
    assert_eq!(namespaces.get(&id("b")).await.unwrap(), made);
    let event = ObjectEvent::NamespaceCreate { name: id("b"), labels: labels(&[("k", "v")]) };
    assert_eq!(events.take(), [(id("b"), event)]);

    namespaces.create(namespace("a", &[])).await.unwrap();
    let found = namespaces.list(NONE).await.unwrap();
    assert_eq!(found, [namespace("a", &[]), made.clone()]);
    assert_eq!(namespaces.list(&["labels.k"]).await.unwrap(), [made]);
    assert_eq!(namespaces.list(&["name==a"]).await.unwrap(), [namespace("a", &[])]);
}

#[tokio::test]
async fn a_second_one_and_a_bad_one_are_refused() {
    let World { namespaces, events, .. } = World::new();
    namespaces.create(namespace("a", &[("k", "v")])).await.unwrap();
    events.take();
    let again = namespaces.create(namespace("a", &[])).await;
    assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
    let long = "x".repeat(4096);
    let bad = namespaces.create(namespace("b", &[("k", &long)])).await;
    assert_eq!(kind(bad), Some(ErrorKind::InvalidArgument));
    assert_eq!(namespaces.list(NONE).await.unwrap(), [namespace("a", &[("k", "v")])]);
    assert_eq!(events.take(), []);
}

#[tokio::test]
async fn one_that_nobody_made_has_no_labels() {
    let World { namespaces, .. } = World::new();
    assert_eq!(namespaces.get(&id("a")).await.unwrap(), namespace("a", &[]));
    assert_eq!(namespaces.list(NONE).await.unwrap(), []);
}

#[tokio::test]
async fn labels_are_changed_by_mask_or_all() {
    let World { namespaces, events, .. } = World::new();
    namespaces.create(namespace("a", &[("k.1", "v"), ("l", "w")])).await.unwrap();
    events.take();
    for (wish, paths, expected) in [
        (&[("k.1", "new"), ("x", "y")][..], &["labels.k.1"][..], &[("k.1", "new"), ("l", "w")][..]),
        (&[("l", "")], &["labels.l"], &[("k.1", "new")]),
        (&[], &["labels.k.1"], &[]),
        (&[("m", "1")], &[], &[("m", "1")]),
        (&[("n", "1")], &["labels"], &[("n", "1")]),
    ] {
        let updated = namespaces.update(namespace("a", wish), paths).await.unwrap();
        assert_eq!(updated, namespace("a", expected), "{paths:?}");
        assert_eq!(namespaces.get(&id("a")).await.unwrap(), updated);
        let event = ObjectEvent::NamespaceUpdate { name: id("a"), labels: labels(expected) };
        assert_eq!(events.take(), [(id("a"), event)]);
    }
    for path in ["name", "", "label.k"] {
        let refused = namespaces.update(namespace("a", &[]), &[path]).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{path}");
    }
    // Labelling is another way to make one.
    namespaces.update(namespace("new", &[("k", "v")]), &["labels.k"]).await.unwrap();
    assert_eq!(namespaces.get(&id("new")).await.unwrap(), namespace("new", &[("k", "v")]));
}

#[tokio::test]
async fn only_an_empty_one_can_be_deleted() {
    let World { db, namespaces, images, containers, leases, events, .. } = World::new();
    namespaces.create(namespace("a", &[])).await.unwrap();
    let target = Descriptor::new("text/plain", Digest::of(Algorithm::Sha256, b"x"), 1);
    images.create(&id("a"), Image::new("i", target), None, None).await.unwrap();
    set_snapshots(&db, |change, key| change.put_bytes(SNAPSHOTS, &key, &[])).await;
    containers.create(&id("a"), container("c")).await.unwrap();
    leases.create(&id("a"), "l", BTreeMap::new()).await.unwrap();
    let held = Resource { id: "i".into(), kind: "images".into() };
    leases.add_resource(&id("a"), "l", held).await.unwrap();
    leases.create(&id("ab"), "l", BTreeMap::new()).await.unwrap();
    events.take();

    let refused = namespaces.delete(&id("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    let expected = "namespace \"a\" must be empty, but it still has images, containers, \
                    snapshots on \"native\" snapshotter, snapshots on \"overlayfs\" snapshotter";
    assert_eq!(refused.to_string(), expected);
    assert_eq!(events.take(), []);

    images.delete(&id("a"), "i", None, None).await.unwrap();
    set_snapshots(&db, |change, key| change.remove(SNAPSHOTS, &key).map(drop)).await;
    containers.delete(&id("a"), "c").await.unwrap();
    events.take();
    namespaces.delete(&id("a")).await.unwrap();
    assert_eq!(events.take(), [(id("a"), ObjectEvent::NamespaceDelete { name: id("a") })]);
    assert_eq!(kind(namespaces.delete(&id("a")).await), Some(ErrorKind::NotFound));

    // Its leases went with it, and no other's.
    leases.create(&id("a"), "l", BTreeMap::new()).await.unwrap();
    assert_eq!(leases.resources(&id("a"), "l").await.unwrap(), []);
    assert_eq!(leases.list(&id("ab"), NONE).await.unwrap().len(), 1);
}

/// Does the same to the records of some snapshots.
async fn set_snapshots(db: &Db, set: fn(&mut Change<'_>, Key) -> Result<()>) {
    let all = [["a", "native", "k"], ["a", "overlayfs", "k"], ["a", "overlayfs", "l"]];
    let change = move |change: &mut Change<'_>| {
        all.iter().try_for_each(|parts| set(change, Key::new(parts)?))
    };
    db.write(change).await.unwrap();
}
