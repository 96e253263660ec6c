//! Images through their service: names, targets, labels; and what is refused.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use containerd_api::{
    services::{
        images::v1::{
            CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
            UpdateImageRequest,
        },
        namespaces::v1::{CreateNamespaceRequest, DeleteNamespaceRequest, Namespace},
    },
    types::Descriptor,
};
use prost_types::{FieldMask, Timestamp};
use tests::{
    Api, Bed, Origin, code,
    content::{BYE, HELLO, labels},
};
use tonic::{Code, Status};

tests::every_daemon!(
    images_are_kept,
    images_are_found_by_filters,
    images_are_updated_by_mask,
    images_that_make_no_sense,
    a_namespace_with_images_stays,
);
tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    an_image_has_the_time_that_was_asked_for,
    only_the_image_that_was_meant_is_deleted,
);

fn target(digest: &str) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: digest.into(),
        size: 5,
        annotations: labels(&[("a", "1")]),
    }
}

fn image(name: &str, pairs: &[(&str, &str)]) -> Image {
    let (name, labels) = (name.to_owned(), labels(pairs));
    Image { name, labels, target: Some(target(HELLO)), ..Image::default() }
}

async fn create(api: &Api, image: Image) -> Result<Image, Status> {
    let request = CreateImageRequest { image: Some(image), source_date_epoch: None };
    let created = api.images().create(request).await?.into_inner();
    created.image.ok_or_else(|| Status::internal("no image"))
}

async fn get(api: &Api, name: &str) -> Result<Image, Status> {
    let found = api.images().get(GetImageRequest { name: name.into() }).await?.into_inner();
    found.image.ok_or_else(|| Status::internal("no image"))
}

async fn list(api: &Api, filters: &[&str]) -> Result<Vec<String>, Status> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let found = api.images().list(ListImagesRequest { filters }).await?.into_inner();
    Ok(found.images.into_iter().map(|image| image.name).collect())
}

async fn update(api: &Api, image: Image, paths: &[&str]) -> Result<Image, Status> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let update_mask = Some(FieldMask { paths });
    let request = UpdateImageRequest { image: Some(image), update_mask, source_date_epoch: None };
    let updated = api.images().update(request).await?.into_inner();
    updated.image.ok_or_else(|| Status::internal("no image"))
}

async fn delete(api: &Api, name: &str) -> Result<(), Status> {
    let request = DeleteImageRequest { name: name.into(), ..DeleteImageRequest::default() };
    api.images().delete(request).await.map(drop)
}

async fn images_are_kept(bed: &mut Bed) -> Result<()> {
    const NAME: &str = "docker.io/library/redis:7@sha256:0";
    let events = bed.events().await?;
    let made = create(bed.api(), image(NAME, &[("k", "v"), ("gone", "")])).await?;
    assert_eq!(made.labels.get("k").map(String::as_str), Some("v"));
    let target = made.target.as_ref().context("no target")?;
    assert_eq!((target.digest.as_str(), target.size), (HELLO, 5));
    ensure!(made.created_at.is_some() && made.created_at == made.updated_at, "{made:?}");
    assert_eq!(code(create(bed.api(), image(NAME, &[])).await)?.0, Code::AlreadyExists);
    // The original neither keeps nor repeats what it has to tell.
    let forgets = bed.daemon.pairing().daemon == Origin::Debian;
    if forgets {
        events.sync().await?;
    }
    bed.crash().await?;
    if forgets {
        events.sync().await?;
    }
    let found = get(bed.api(), NAME).await?;
    assert_eq!(found.labels, labels(&[("k", "v")]));
    assert_eq!((&found.target, &found.created_at), (&made.target, &made.created_at));
    assert_eq!(list(bed.api(), &[]).await?, [NAME]);
    let other = bed.api().in_namespace("other")?;
    assert_eq!(list(&other, &[]).await?, [""; 0]);
    delete(bed.api(), NAME).await?;
    assert_eq!(code(get(bed.api(), NAME).await)?.0, Code::NotFound);
    let (status, text) = code(delete(bed.api(), NAME).await)?;
    assert_eq!(status, Code::NotFound);
    ensure!(text.contains("not found"), "{text}");
    events.sync().await?;
    let topics: Vec<_> = events.everything().into_iter().map(|event| event.name).collect();
    let topics: Vec<_> = topics.iter().filter(|name| name.starts_with("/images/")).collect();
    assert_eq!(topics, ["/images/create", "/images/delete"]);
    Ok(())
}

async fn images_are_found_by_filters(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    create(api, image("b", &[("k.l", "v")])).await?;
    let mut other = image("a", &[]);
    other.target = Some(Descriptor { media_type: "text/plain".into(), ..target(BYE) });
    create(api, other).await?;
    let by_digest = format!("target.digest=={BYE}");
    for (filters, expected) in [
        (&[][..], &["a", "b"][..]),
        (&[""], &["a", "b"]),
        (&["name==b"], &["b"]),
        (&["name==a", "name==b"], &["a", "b"]),
        (&["name~=^[a]$"], &["a"]),
        (&[&by_digest], &["a"]),
        (&["target.mediatype~=json"], &["b"]),
        (&["labels.k.l==v"], &["b"]),
        (&["labels.\"k.l\""], &["b"]),
        (&["labels.k.l!=v"], &["a"]),
        (&["size==5"], &[]),
    ] {
        assert_eq!(list(api, filters).await?, expected, "{filters:?}");
    }
    assert_eq!(code(list(api, &["name=a"]).await)?.0, Code::InvalidArgument);
    for name in ["a", "b"] {
        delete(api, name).await?;
    }
    Ok(())
}

async fn images_are_updated_by_mask(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let old = &[("k.1", "v"), ("l", "w")];
    let mut new = image("i", &[("k.1", "new"), ("m", "x")]);
    new.target = Some(Descriptor { annotations: labels(&[("a", "2")]), ..target(BYE) });
    let events = bed.events().await?;
    for (paths, expected, digest) in [
        (&["labels.k.1"][..], &[("k.1", "new"), ("l", "w")][..], HELLO),
        (&["labels.l"], &[("k.1", "v")], HELLO),
        (&["labels"], &[("k.1", "new"), ("m", "x")], HELLO),
        (&["target"], old, BYE),
        (&[], &[("k.1", "new"), ("m", "x")], BYE),
    ] {
        let made = create(api, image("i", old)).await?;
        update(api, new.clone(), paths).await?;
        let found = get(api, "i").await?;
        assert_eq!(found.labels, labels(expected), "{paths:?}");
        let target = found.target.context("no target")?;
        assert_eq!(target.digest, digest, "{paths:?}");
        assert_eq!(found.created_at, made.created_at, "{paths:?}");
        ensure!(found.updated_at != made.updated_at, "{paths:?}");
        delete(api, "i").await?;
    }
    assert_eq!(code(update(api, new.clone(), &[]).await)?.0, Code::NotFound);
    create(api, image("i", old)).await?;
    for path in ["name", "size", "target.digest"] {
        let refused = code(update(api, new.clone(), &[path]).await)?;
        assert_eq!(refused.0, Code::InvalidArgument, "{path}");
    }
    delete(api, "i").await?;
    events.sync().await?;
    let updates = events.everything().iter().filter(|e| e.name == "/images/update").count();
    assert_eq!(updates, 5);
    Ok(())
}

async fn images_that_make_no_sense(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let long = "x".repeat(5000);
    let with = |target: Descriptor| Image { target: Some(target), ..image("i", &[]) };
    for bad in [
        image("", &[]),
        image("i", &[("k", &long)]),
        with(Descriptor { digest: String::new(), ..target(HELLO) }),
        with(Descriptor { digest: "sha256:short".into(), ..target(HELLO) }),
        with(Descriptor { size: 0, ..target(HELLO) }),
        with(Descriptor { size: -1, ..target(HELLO) }),
        with(Descriptor { media_type: String::new(), ..target(HELLO) }),
    ] {
        let refused = code(create(api, bad.clone()).await)?;
        assert_eq!(refused.0, Code::InvalidArgument, "{bad:?}: {}", refused.1);
    }
    assert_eq!(code(get(api, "").await)?.0, Code::NotFound);
    assert_eq!(list(api, &[]).await?, [""; 0]);
    let plain = api.without_namespace();
    assert_eq!(code(list(&plain, &[]).await)?.0, Code::FailedPrecondition);
    Ok(())
}

async fn a_namespace_with_images_stays(bed: &mut Bed) -> Result<()> {
    let namespace = Namespace { name: "full".into(), labels: BTreeMap::new() };
    let request = CreateNamespaceRequest { namespace: Some(namespace) };
    bed.api().namespaces().create(request).await?;
    let api = bed.api().in_namespace("full")?;
    create(&api, image("i", &[])).await?;
    let request = DeleteNamespaceRequest { name: "full".into() };
    let refused = code(api.namespaces().delete(request.clone()).await)?;
    assert_eq!(refused.0, Code::FailedPrecondition);
    let words = "namespace \"full\" must be empty, but it still has images";
    ensure!(refused.1.starts_with(words), "{}", refused.1);
    delete(&api, "i").await?;
    api.namespaces().delete(request).await?;
    Ok(())
}

async fn an_image_has_the_time_that_was_asked_for(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let time = |seconds| Some(Timestamp { seconds, nanos: 7 });
    let request =
        CreateImageRequest { image: Some(image("i", &[])), source_date_epoch: time(1_000) };
    api.images().create(request).await?;
    let request = UpdateImageRequest {
        image: Some(image("i", &[("k", "v")])),
        update_mask: Some(FieldMask { paths: vec!["labels".into()] }),
        source_date_epoch: time(2_000),
    };
    api.images().update(request).await?;
    let found = get(api, "i").await?;
    assert_eq!((found.created_at, found.updated_at), (time(1_000), time(2_000)));
    // (The original has these since 2.0.)
    let mut new = image("i", &[]);
    new.target = Some(Descriptor { annotations: labels(&[("b", "2")]), ..Descriptor::default() });
    update(api, new, &["annotations.b"]).await?;
    let target = get(api, "i").await?.target.context("no target")?;
    assert_eq!(target.annotations, labels(&[("a", "1"), ("b", "2")]));
    assert_eq!(list(api, &["annotations.b==2"]).await?, ["i"]);
    delete(api, "i").await?;
    Ok(())
}

async fn only_the_image_that_was_meant_is_deleted(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    create(api, image("i", &[])).await?;
    let request = |digest| DeleteImageRequest {
        name: "i".into(),
        target: Some(target(digest)),
        ..DeleteImageRequest::default()
    };
    assert_eq!(code(api.images().delete(request(BYE)).await)?.0, Code::NotFound);
    api.images().delete(request(HELLO)).await?;
    assert_eq!(code(api.images().delete(request(HELLO)).await)?.0, Code::NotFound);
    Ok(())
}
