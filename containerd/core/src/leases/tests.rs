//! Leases as clients see them.

use std::time::SystemTime;

use shim_protocol::{Error, ErrorKind, Result};

use super::*;
use crate::testing::{World, id, labels};

const NONE: &[&str] = &[];

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().as_ref().map(Error::kind)
}

fn resource(kind: &str, id: &str) -> Resource {
    Resource { id: id.into(), kind: kind.into() }
}

fn digest() -> String {
    format!("sha256:{}", "0123456789abcdef".repeat(4))
}

#[tokio::test]
async fn what_is_created_is_found_again_until_it_is_deleted() {
    let World { leases, namespaces, .. } = World::new();
    let before = SystemTime::now();
    let expire = labels(&[("containerd.io/gc.expire", "2030-01-02T03:04:05Z"), ("gone", "")]);
    let lease = leases.create(&id("ns"), "moby/sha256:12-_", expire).await.unwrap();
    assert_eq!(lease.id, "moby/sha256:12-_");
    assert_eq!(lease.labels, labels(&[("containerd.io/gc.expire", "2030-01-02T03:04:05Z")]));
    assert!(lease.created_at >= before);
    assert_eq!(leases.list(&id("ns"), NONE).await.unwrap(), std::slice::from_ref(&lease));
    assert_eq!(namespaces.list(NONE).await.unwrap().len(), 1);

    let again = leases.create(&id("ns"), &lease.id, BTreeMap::new()).await;
    assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
    leases.delete(&id("ns"), &lease.id).await.unwrap();
    assert_eq!(leases.list(&id("ns"), NONE).await.unwrap(), []);
    assert_eq!(kind(leases.delete(&id("ns"), &lease.id).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(leases.delete(&id("ns"), "").await), Some(ErrorKind::NotFound));
}

#[tokio::test]
async fn one_without_an_id_gets_one() {
    let World { leases, .. } = World::new();
    for made in 1..20 {
        let lease = leases.create(&id("ns"), "", BTreeMap::new()).await.unwrap();
        assert!(!lease.id.is_empty());
        assert_eq!(leases.list(&id("ns"), NONE).await.unwrap().len(), made);
    }
}

#[tokio::test]
async fn an_id_that_would_be_two_is_refused() {
    let World { leases, .. } = World::new();
    let refused = leases.create(&id("ns"), "a\0b", BTreeMap::new()).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
}

#[tokio::test]
async fn filters_choose() {
    let World { leases, .. } = World::new();
    leases.create(&id("ns"), "a", labels(&[("k.l", "v")])).await.unwrap();
    leases.create(&id("ns"), "b", BTreeMap::new()).await.unwrap();
    for (filter, expected) in [("id==b", "b"), ("labels.k.l==v", "a"), ("labels.k.l!=v", "b")] {
        let found = leases.list(&id("ns"), &[filter]).await.unwrap();
        assert_eq!(found.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), [expected]);
    }
    let refused = leases.list(&id("ns"), &["=="]).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
}

#[tokio::test]
async fn it_holds_what_was_added_until_that_is_deleted() {
    let World { leases, .. } = World::new();
    for lease in ["l", "l2"] {
        leases.create(&id("ns"), lease, BTreeMap::new()).await.unwrap();
    }
    let held = [
        resource("content", &digest()),
        resource("images", "docker.io/library/redis:7"),
        resource("ingests", "layer-1"),
        resource("snapshots/native", "k"),
        resource("snapshots/overlayfs", "k/2"),
    ];
    for resource in held.iter().rev().chain(&held) {
        leases.add_resource(&id("ns"), "l", resource.clone()).await.unwrap();
    }
    assert_eq!(leases.resources(&id("ns"), "l").await.unwrap(), held);
    assert_eq!(leases.resources(&id("ns"), "l2").await.unwrap(), []);

    for _ in 0..2 {
        leases.delete_resource(&id("ns"), "l", held[2].clone()).await.unwrap();
    }
    assert_eq!(leases.resources(&id("ns"), "l").await.unwrap().len(), 4);

    leases.delete(&id("ns"), "l").await.unwrap();
    leases.create(&id("ns"), "l", BTreeMap::new()).await.unwrap();
    assert_eq!(leases.resources(&id("ns"), "l").await.unwrap(), []);
}

#[tokio::test]
async fn what_it_cannot_hold_is_refused() {
    let World { leases, .. } = World::new();
    leases.create(&id("ns"), "l", BTreeMap::new()).await.unwrap();
    let digest = digest();
    for (resource, expected) in [
        (resource("content", "not a digest"), ErrorKind::InvalidArgument),
        (resource("content", &digest[..70]), ErrorKind::InvalidArgument),
        (resource("content", &digest.to_uppercase()), ErrorKind::InvalidArgument),
        (resource("content/x", &digest), ErrorKind::InvalidArgument),
        (resource("images/x", "i"), ErrorKind::InvalidArgument),
        (resource("snapshots", "k"), ErrorKind::InvalidArgument),
        (resource("snapshots/", "k"), ErrorKind::InvalidArgument),
        (resource("snapshots/a/b", "k"), ErrorKind::InvalidArgument),
        (resource("images", ""), ErrorKind::InvalidArgument),
        (resource("images", "a\0b"), ErrorKind::InvalidArgument),
        (resource("", "i"), ErrorKind::Unimplemented),
        (resource("volumes", "v"), ErrorKind::Unimplemented),
    ] {
        let added = leases.add_resource(&id("ns"), "l", resource.clone()).await;
        assert_eq!(kind(added), Some(expected), "{resource:?}");
        let deleted = leases.delete_resource(&id("ns"), "l", resource.clone()).await;
        assert_eq!(kind(deleted), Some(expected), "{resource:?}");
    }
    let held = resource("images", "i");
    let nowhere = leases.add_resource(&id("ns"), "absent", held.clone()).await;
    assert_eq!(kind(nowhere), Some(ErrorKind::NotFound));
    let nowhere = leases.delete_resource(&id("ns"), "absent", held).await;
    assert_eq!(kind(nowhere), Some(ErrorKind::NotFound));
    assert_eq!(kind(leases.resources(&id("ns"), "absent").await), Some(ErrorKind::NotFound));
}
