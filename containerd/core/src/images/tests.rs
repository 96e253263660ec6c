//! Images as clients see them.

use std::time::{Duration, SystemTime};

use containerd_images::{Algorithm, Digest, media_type::OCI_MANIFEST};
use shim_protocol::{Error, ErrorKind, Result};

use super::*;
use crate::{
    announce::ObjectEvent,
    gc::EXPIRE_LABEL,
    leases::Resource,
    testing::{World, id, labels},
};

const NONE: &[&str] = &[];

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn target(content: &str) -> Descriptor {
    let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
    Descriptor::new(OCI_MANIFEST, digest, content.len() as u64)
}

fn image(name: &str, pairs: &[(&str, &str)]) -> Image {
    Image { labels: labels(pairs), ..Image::new(name, target("manifest")) }
}

#[tokio::test]
async fn what_is_created_is_found_again_until_it_is_deleted() {
    let World { images, namespaces, events, .. } = World::new();
    let before = SystemTime::now();
    let mut wish = image("docker.io/library/redis:7", &[("k", "v"), ("gone", "")]);
    wish.target.annotations = labels(&[("a", "b"), ("c", "")]);
    let made = images.create(&id("ns"), wish, None, None).await.unwrap();
    assert_eq!(made.labels, labels(&[("k", "v")]));
    assert_eq!(made.target.annotations, labels(&[("a", "b")]));
    assert!(made.created_at >= before && made.updated_at == made.created_at);
    assert_eq!(images.get(&id("ns"), &made.name).await.unwrap(), made);
    assert_eq!(images.list(&id("ns"), NONE).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(images.list(&id("other"), NONE).await.unwrap(), []);
    assert_eq!(namespaces.list(NONE).await.unwrap().len(), 1);

    let again = images.create(&id("ns"), made.clone(), None, None).await;
    assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
    images.delete(&id("ns"), &made.name, None, None).await.unwrap();
    assert_eq!(kind(images.get(&id("ns"), &made.name).await), Some(ErrorKind::NotFound));
    let gone = images.delete(&id("ns"), &made.name, None, None).await;
    assert_eq!(kind(gone), Some(ErrorKind::NotFound));
    let name = made.name;
    let expected = [
        ObjectEvent::ImageCreate { name: name.clone(), labels: labels(&[("k", "v")]) },
        ObjectEvent::ImageDelete { name },
    ];
    assert_eq!(events.take(), expected.map(|event| (id("ns"), event)));
}

#[tokio::test]
async fn its_time_can_be_chosen() {
    let World { images, .. } = World::new();
    let (then, later) = (Duration::from_secs(7), Duration::from_nanos(8_000_000_001));
    let (then, later) = (SystemTime::UNIX_EPOCH + then, SystemTime::UNIX_EPOCH + later);
    let made = images.create(&id("ns"), image("i", &[]), Some(then), None).await.unwrap();
    assert_eq!((made.created_at, made.updated_at), (then, then));
    images.update(&id("ns"), image("i", &[]), NONE, Some(later), None).await.unwrap();
    let found = images.get(&id("ns"), "i").await.unwrap();
    assert_eq!((found.created_at, found.updated_at), (then, later));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let World { images, events, .. } = World::new();
    let good = image("i", &[]);
    let long = "x".repeat(4096);
    let without = |change: fn(&mut Image)| {
        let mut image = good.clone();
        change(&mut image);
        image
    };
    for bad in [
        without(|i| i.name.clear()),
        without(|i| i.name.push('\0')),
        without(|i| i.target.size = 0),
        without(|i| i.target.media_type.clear()),
        image("i", &[("k", &long)]),
    ] {
        let refused = images.create(&id("ns"), bad, None, None).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    }
    let unknown = images.update(&id("ns"), good.clone(), NONE, None, None).await;
    assert_eq!(kind(unknown), Some(ErrorKind::NotFound));
    images.create(&id("ns"), good.clone(), None, None).await.unwrap();
    for path in ["name", "", "label.k", "target.digest", "created_at"] {
        let refused = images.update(&id("ns"), good.clone(), &[path], None, None).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{path}");
    }
    assert_eq!(events.take().len(), 1);
}

#[tokio::test]
async fn filters_choose() {
    let World { images, .. } = World::new();
    let mut a = image("a", &[("k.l", "v")]);
    a.target = target("other");
    a.target.annotations = labels(&[("x.y", "z")]);
    let mut b = image("b", &[]);
    b.target.media_type = "text/plain".into();
    for image in [a.clone(), b] {
        images.create(&id("ns"), image, None, None).await.unwrap();
    }
    let by_digest = format!("target.digest=={}", a.target.digest);
    for (filter, expected) in [
        ("name==b", "b"),
        ("name~=^a", "a"),
        (&by_digest, "a"),
        ("target.mediatype~=plain", "b"),
        ("labels.k.l==v", "a"),
        ("labels.k.l!=v", "b"),
        ("annotations.x.y", "a"),
    ] {
        let found = images.list(&id("ns"), &[filter]).await.unwrap();
        assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), [expected]);
    }
    assert_eq!(images.list(&id("ns"), &["target", "nothing==x"]).await.unwrap(), []);
}

#[tokio::test]
async fn only_what_the_mask_names_is_changed() {
    let World { images, events, .. } = World::new();
    let mut old = image("i", &[("k.1", "v"), ("l", "w")]);
    old.target.annotations = labels(&[("a", "1"), ("b", "2")]);
    let mut new = image("i", &[("k.1", "new"), ("m", "x")]);
    new.target = target("new");
    new.target.annotations = labels(&[("a", "new")]);
    for (paths, expected_labels, content, annotations) in [
        (&["labels.k.1"][..], &[("k.1", "new"), ("l", "w")][..], "manifest", &old.target),
        (&["labels.l", "labels.m"], &[("k.1", "v"), ("m", "x")], "manifest", &old.target),
        (&["labels"], &[("k.1", "new"), ("m", "x")], "manifest", &old.target),
        (&["target"], &[("k.1", "v"), ("l", "w")], "new", &new.target),
        (&["annotations"], &[("k.1", "v"), ("l", "w")], "manifest", &new.target),
        (&["annotations.b", "annotations.a"], &[("k.1", "v"), ("l", "w")], "manifest", &new.target),
        (&[], &[("k.1", "new"), ("m", "x")], "new", &new.target),
    ] {
        let made = images.create(&id("ns"), old.clone(), None, None).await.unwrap();
        events.take();
        let updated = images.update(&id("ns"), new.clone(), paths, None, None).await.unwrap();
        assert_eq!(updated.labels, labels(expected_labels), "{paths:?}");
        assert_eq!(updated.target.digest, target(content).digest, "{paths:?}");
        assert_eq!(updated.target.annotations, annotations.annotations, "{paths:?}");
        assert_eq!(updated.created_at, made.created_at);
        assert!(updated.updated_at > made.updated_at);
        assert_eq!(images.get(&id("ns"), "i").await.unwrap(), updated);
        let event = ObjectEvent::ImageUpdate { name: "i".into(), labels: updated.labels };
        assert_eq!(events.take(), [(id("ns"), event)]);
        images.delete(&id("ns"), "i", None, None).await.unwrap();
    }
}

#[tokio::test]
async fn one_that_stands_for_something_else_is_not_deleted() {
    let World { images, .. } = World::new();
    images.create(&id("ns"), image("i", &[]), None, None).await.unwrap();
    let refused = images.delete(&id("ns"), "i", Some(&target("other").digest), None).await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));
    images.get(&id("ns"), "i").await.unwrap();
    images.delete(&id("ns"), "i", Some(&target("manifest").digest), None).await.unwrap();
}

#[tokio::test]
async fn a_lease_holds_those_that_expire() {
    let World { images, leases, .. } = World::new();
    leases.create(&id("ns"), "l", BTreeMap::new()).await.unwrap();
    let expire = &[(EXPIRE_LABEL, "2030-01-02T03:04:05Z")];
    let held = |name: &str| Resource { id: name.into(), kind: "images".into() };
    images.create(&id("ns"), image("for ever", &[]), None, Some("l")).await.unwrap();
    images.create(&id("ns"), image("a while", expire), None, Some("l")).await.unwrap();
    assert_eq!(leases.resources(&id("ns"), "l").await.unwrap(), [held("a while")]);
    let paths = &["labels"];
    images.update(&id("ns"), image("for ever", expire), paths, None, Some("l")).await.unwrap();
    images.delete(&id("ns"), "a while", None, Some("l")).await.unwrap();
    assert_eq!(leases.resources(&id("ns"), "l").await.unwrap(), [held("for ever")]);

    let unknown = images.create(&id("ns"), image("i", expire), None, Some("none")).await;
    assert_eq!(kind(unknown), Some(ErrorKind::NotFound));
    assert_eq!(kind(images.get(&id("ns"), "i").await), Some(ErrorKind::NotFound));
    // It does not matter who asks.
    images.create(&id("ns"), image("i", &[]), None, Some("none")).await.unwrap();
}
