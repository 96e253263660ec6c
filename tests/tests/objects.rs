//! Namespaces, leases and container records through the gRPC API: what is
//! written is read again, and what is wrong gets the code that clients know.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use containerd_api::services::{
    containers::v1::{
        Container as Record, GetContainerRequest, ListContainersRequest, UpdateContainerRequest,
    },
    leases::v1::{
        AddResourceRequest, CreateRequest, DeleteRequest, DeleteResourceRequest, Lease,
        ListRequest, ListResourcesRequest, Resource,
    },
    namespaces::v1::{
        CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest,
        Namespace, UpdateNamespaceRequest,
    },
};
use prost_types::FieldMask;
use tests::{Api, Bed, Origin};
use tonic::{Code, Status};

// Shims have no part in this.
tests::every_daemon!(
    namespaces_are_kept,
    namespaces_in_use_stay,
    leases_are_kept,
    leases_hold_resources,
    containers_are_found_by_filters,
    containers_are_updated_by_mask,
);

type Labels = BTreeMap<String, String>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// Asserts the code of a call that must fail.
#[track_caller]
fn refused<T>(expected: Code, result: Result<T, Status>) {
    match result {
        Ok(_) => panic!("the call succeeded and should not have"),
        Err(status) => assert_eq!(status.code(), expected, "{}", status.message()),
    }
}

/// Create, get, update, list, delete; also over a restart of the daemon.
async fn namespaces_are_kept(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let api = bed.api().clone();
    create_namespace(&api, "blue", &[("size", "small"), ("form", "round")]).await?;
    refused(Code::AlreadyExists, create_namespace(&api, "blue", &[]).await);
    let long = "x".repeat(5000);
    refused(Code::InvalidArgument, create_namespace(&api, "green", &[("k", &long)]).await);

    update_namespace(&api, "blue", &[("size", "large")], &["labels.size"]).await?;
    let kept = get_namespace(&api, "blue").await?.labels;
    assert_eq!(kept, labels(&[("size", "large"), ("form", "round")]));
    update_namespace(&api, "blue", &[("colour", "blue")], &[]).await?;
    let wrong = update_namespace(&api, "blue", &[], &["name"]).await;
    refused(Code::InvalidArgument, wrong);

    // The original neither keeps nor repeats what it has to tell.
    let forgets = bed.daemon.pairing().daemon == Origin::Debian;
    if forgets {
        events.sync().await?;
    }
    bed.crash().await?;
    if forgets {
        events.sync().await?;
    }
    assert_eq!(get_namespace(&api, "blue").await?.labels, labels(&[("colour", "blue")]));
    let list = api.namespaces().list(ListNamespacesRequest::default()).await?.into_inner();
    assert!(list.namespaces.iter().any(|namespace| namespace.name == "blue"), "{list:?}");

    let delete = || DeleteNamespaceRequest { name: "blue".into() };
    api.namespaces().delete(delete()).await?;
    refused(Code::NotFound, api.namespaces().delete(delete()).await);
    // A namespace that is not there is one without labels: the first object
    // in it makes it.
    assert_eq!(get_namespace(&api, "blue").await?.labels, labels(&[]));

    events.wait_for("delete of the namespace", |event| event.name == "/namespaces/delete").await?;
    let told: Vec<_> = events
        .everything()
        .into_iter()
        .map(|event| event.name)
        .filter(|name| name.starts_with("/namespaces/"))
        .collect();
    let words = ["create", "update", "update", "delete"].map(|word| format!("/namespaces/{word}"));
    assert_eq!(told, words);
    Ok(())
}

/// A namespace with something in it is not deleted.
async fn namespaces_in_use_stay(bed: &mut Bed) -> Result<()> {
    let inside = bed.api().in_namespace("blue")?;
    create_namespace(&inside, "blue", &[]).await?;
    let container =
        tests::Container::create(&inside, "held", &bed.spec("held", "true"), labels(&[])).await?;
    let delete = || DeleteNamespaceRequest { name: "blue".into() };
    refused(Code::FailedPrecondition, inside.namespaces().delete(delete()).await);
    container.delete().await?;
    inside.namespaces().delete(delete()).await?;
    Ok(())
}

/// Create, list with filters, delete; each namespace has its own.
async fn leases_are_kept(bed: &mut Bed) -> Result<()> {
    let api = bed.api().clone();
    let made = create_lease(&api, "first", &[("kind", "test")]).await?;
    assert_eq!((made.id.as_str(), &made.labels), ("first", &labels(&[("kind", "test")])));
    create_lease(&api, "second", &[]).await?;
    refused(Code::AlreadyExists, create_lease(&api, "first", &[]).await);
    let named = create_lease(&api, "", &[]).await?;
    assert!(!named.id.is_empty(), "a lease without an id");

    bed.crash().await?;
    assert_eq!(list_leases(&api, &["id==first"]).await?.first(), Some(&made));
    assert_eq!(list_leases(&api, &["labels.kind==test"]).await?, [made]);
    let either = list_leases(&api, &["id==first", "id==second"]).await?;
    assert_eq!(either.len(), 2, "{either:?}");
    assert_eq!(list_leases(&api, &[]).await?.len(), 3);
    refused(Code::InvalidArgument, list_leases(&api, &["id=="]).await);
    assert_eq!(list_leases(&api.in_namespace("elsewhere")?, &[]).await?, []);

    for id in ["first", "second", &named.id] {
        delete_lease(&api, id).await?;
    }
    refused(Code::NotFound, delete_lease(&api, "first").await);
    assert_eq!(list_leases(&api, &[]).await?, []);
    refused(Code::FailedPrecondition, list_leases(&api.without_namespace(), &[]).await);
    Ok(())
}

/// What a lease holds is listed until it is let go.
async fn leases_hold_resources(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    create_lease(api, "hold", &[]).await?;
    let digest = format!("sha256:{}", "0".repeat(64));
    let content = resource("content", &digest);
    let snapshot = resource("snapshots/overlayfs", "layer");
    for resource in [&content, &snapshot] {
        add(api, "hold", resource).await?;
        // Once more is no mistake.
        add(api, "hold", resource).await?;
    }
    assert_eq!(held(api, "hold").await?, [content.clone(), snapshot.clone()]);

    refused(Code::InvalidArgument, add(api, "hold", &resource("content", "no digest")).await);
    refused(Code::Unimplemented, add(api, "hold", &resource("dreams", "x")).await);
    refused(Code::NotFound, add(api, "ghost", &content).await);
    refused(Code::NotFound, held(api, "ghost").await);

    let request = DeleteResourceRequest { id: "hold".into(), resource: Some(content) };
    api.leases().delete_resource(request).await?;
    assert_eq!(held(api, "hold").await?, [snapshot]);
    Ok(delete_lease(api, "hold").await?)
}

/// Fields, labels, values with other characters, and alternatives.
async fn containers_are_found_by_filters(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    for (id, pairs) in [("one", &[("app", "web")][..]), ("two", &[("app", "db"), ("a.b/c", "x y")])]
    {
        tests::Container::create(api, id, &bed.spec(id, "true"), labels(pairs)).await?;
    }
    for (filters, expected) in [
        (&[][..], &["one", "two"][..]),
        (&["id==one"], &["one"]),
        (&["id~=^t"], &["two"]),
        (&["labels.app==web"], &["one"]),
        (&["labels.app!=web"], &["two"]),
        (&["labels.app"], &["one", "two"]),
        (&["labels.\"a.b/c\"==\"x y\""], &["two"]),
        (&["labels.app==web,id==two"], &[]),
        (&["labels.app==web", "id==two"], &["one", "two"]),
    ] {
        assert_eq!(container_ids(api, filters).await?, expected, "{filters:?}");
    }
    refused(Code::InvalidArgument, container_ids(api, &["labels.app=web"]).await);
    assert_eq!(container_ids(&api.in_namespace("elsewhere")?, &[]).await?, [""; 0]);
    bed.remove_record("one").await?;
    bed.remove_record("two").await
}

/// Only what the mask names is changed.
async fn containers_are_updated_by_mask(bed: &mut Bed) -> Result<()> {
    let spec = bed.spec("one", "true");
    tests::Container::create(bed.api(), "one", &spec, labels(&[("a", "1"), ("b", "2")])).await?;
    let before = get_container(bed.api(), "one").await?;
    let change = Record {
        id: "one".into(),
        labels: labels(&[("a", "9"), ("b", "9")]),
        image: "changed".into(),
        ..Record::default()
    };
    let update = async |paths: &[&str]| -> Result<Record, Status> {
        let request =
            UpdateContainerRequest { container: Some(change.clone()), update_mask: mask(paths) };
        let answer = bed.api().containers().update(request).await?.into_inner();
        answer.container.ok_or_else(|| Status::internal("no container"))
    };
    let after = update(&["labels.a"]).await?;
    assert_eq!(after.labels, labels(&[("a", "9"), ("b", "2")]));
    assert_eq!((&after.image, &after.spec), (&before.image, &before.spec));
    assert_ne!(after.updated_at, before.updated_at);
    let after = update(&["image"]).await?;
    assert_eq!((after.image.as_str(), &after.labels["b"]), ("changed", &"2".to_owned()));
    refused(Code::InvalidArgument, update(&["created_at"]).await);
    assert_eq!(get_container(bed.api(), "one").await?, after);
    bed.remove_record("one").await
}

async fn create_namespace(api: &Api, name: &str, pairs: &[(&str, &str)]) -> Result<(), Status> {
    let namespace = Namespace { name: name.into(), labels: labels(pairs) };
    let request = CreateNamespaceRequest { namespace: Some(namespace) };
    api.namespaces().create(request).await.map(drop)
}

async fn get_namespace(api: &Api, name: &str) -> Result<Namespace, Status> {
    let request = GetNamespaceRequest { name: name.into() };
    let answer = api.namespaces().get(request).await?.into_inner();
    answer.namespace.ok_or_else(|| Status::internal("no namespace"))
}

async fn update_namespace(
    api: &Api,
    name: &str,
    pairs: &[(&str, &str)],
    paths: &[&str],
) -> Result<(), Status> {
    let namespace = Namespace { name: name.into(), labels: labels(pairs) };
    let update_mask = if paths.is_empty() { None } else { mask(paths) };
    let request = UpdateNamespaceRequest { namespace: Some(namespace), update_mask };
    // The original's answer is empty.
    api.namespaces().update(request).await.map(drop)
}

async fn create_lease(api: &Api, id: &str, pairs: &[(&str, &str)]) -> Result<Lease, Status> {
    let request = CreateRequest { id: id.into(), labels: labels(pairs) };
    let answer = api.leases().create(request).await?.into_inner();
    answer.lease.ok_or_else(|| Status::internal("no lease"))
}

async fn delete_lease(api: &Api, id: &str) -> Result<(), Status> {
    let request = DeleteRequest { id: id.into(), ..DeleteRequest::default() };
    api.leases().delete(request).await.map(drop)
}

async fn list_leases(api: &Api, filters: &[&str]) -> Result<Vec<Lease>, Status> {
    let request = ListRequest { filters: filters.iter().map(|f| (*f).to_owned()).collect() };
    Ok(api.leases().list(request).await?.into_inner().leases)
}

fn resource(kind: &str, id: &str) -> Resource {
    Resource { id: id.into(), r#type: kind.into() }
}

async fn add(api: &Api, lease: &str, resource: &Resource) -> Result<(), Status> {
    let request = AddResourceRequest { id: lease.into(), resource: Some(resource.clone()) };
    api.leases().add_resource(request).await.map(drop)
}

async fn held(api: &Api, lease: &str) -> Result<Vec<Resource>, Status> {
    let request = ListResourcesRequest { id: lease.into() };
    let mut held = api.leases().list_resources(request).await?.into_inner().resources;
    held.sort_by(|a, b| a.r#type.cmp(&b.r#type));
    Ok(held)
}

async fn get_container(api: &Api, id: &str) -> Result<Record> {
    let request = GetContainerRequest { id: id.into() };
    api.containers().get(request).await?.into_inner().container.context("no container")
}

async fn container_ids(api: &Api, filters: &[&str]) -> Result<Vec<String>, Status> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let answer = api.containers().list(ListContainersRequest { filters }).await?.into_inner();
    let mut ids: Vec<_> = answer.containers.into_iter().map(|record| record.id).collect();
    ids.sort_unstable();
    Ok(ids)
}
