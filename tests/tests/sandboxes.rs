//! Records of sandboxes through the `Store` of the sandbox service.

use anyhow::{Context, Result, ensure};
use containerd_api::{
    services::sandbox::v1::{
        StoreCreateRequest, StoreDeleteRequest, StoreGetRequest, StoreListRequest,
        StoreUpdateRequest,
    },
    types::{Sandbox, sandbox::Runtime},
};
use prost_types::Any;
use tests::{Api, Bed, code, content::labels};
use tonic::{Code, Status};

// (The original of Debian has no such service.)
tests::pairing!(ours, tests::Pairing::OURS, sandboxes_are_kept);

fn any(text: &str) -> Any {
    Any { type_url: "test".into(), value: text.into() }
}

fn sandbox(id: &str) -> Sandbox {
    Sandbox {
        sandbox_id: id.into(),
        runtime: Some(Runtime { name: "runc".into(), options: Some(any("options")) }),
        spec: Some(any("spec")),
        labels: labels(&[("k", "v")]),
        extensions: [("x".to_owned(), any("1"))].into(),
        sandboxer: "podsandbox".into(),
        ..Sandbox::default()
    }
}

async fn create(api: &Api, sandbox: Sandbox) -> Result<Sandbox, Status> {
    let request = StoreCreateRequest { sandbox: Some(sandbox) };
    let created = api.sandboxes().create(request).await?.into_inner().sandbox;
    created.ok_or_else(|| Status::internal("no sandbox"))
}

async fn get(api: &Api, id: &str) -> Result<Sandbox, Status> {
    let request = StoreGetRequest { sandbox_id: id.into() };
    let found = api.sandboxes().get(request).await?.into_inner().sandbox;
    found.ok_or_else(|| Status::internal("no sandbox"))
}

async fn list(api: &Api, filters: &[&str]) -> Result<Vec<String>, Status> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let found = api.sandboxes().list(StoreListRequest { filters }).await?.into_inner().list;
    Ok(found.into_iter().map(|sandbox| sandbox.sandbox_id).collect())
}

async fn update(api: &Api, sandbox: Sandbox, fields: &[&str]) -> Result<(), Status> {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    let request = StoreUpdateRequest { sandbox: Some(sandbox), fields };
    api.sandboxes().update(request).await.map(drop)
}

async fn sandboxes_are_kept(bed: &mut Bed) -> Result<()> {
    let api = bed.api().clone();
    let made = create(&api, sandbox("a")).await?;
    ensure!(made.created_at.is_some() && made.created_at == made.updated_at, "{made:?}");
    create(&api, Sandbox { sandbox_id: "b".into(), ..Sandbox::default() }).await?;
    assert_eq!(code(create(&api, sandbox("a")).await)?.0, Code::AlreadyExists);
    assert_eq!(code(create(&api, sandbox("a b")).await)?.0, Code::InvalidArgument);
    bed.crash().await?;
    assert_eq!(get(&api, "a").await?, made);
    assert_eq!(list(&api, &[]).await?, ["a", "b"]);
    assert_eq!(list(&api, &["labels.k==v"]).await?, ["a"]);
    assert_eq!(list(&api, &["id==b"]).await?, ["b"]);

    let new = Sandbox { labels: labels(&[("l", "w")]), spec: Some(any("new")), ..sandbox("a") };
    update(&api, new.clone(), &["labels.l"]).await?;
    let found = get(&api, "a").await?;
    assert_eq!(found.labels, labels(&[("k", "v"), ("l", "w")]));
    assert_eq!(found.spec, Some(any("spec")));
    update(&api, new.clone(), &[]).await?;
    let found = get(&api, "a").await?;
    assert_eq!((&found.labels, &found.spec), (&new.labels, &new.spec));
    let created = found.created_at.context("no time")?;
    ensure!(Some(&created) == made.created_at.as_ref() && found.updated_at != made.updated_at);
    for (wrong, fields) in
        [(new.clone(), &["sandboxer"][..]), (Sandbox { runtime: None, ..new.clone() }, &[])]
    {
        assert_eq!(code(update(&api, wrong, fields).await)?.0, Code::InvalidArgument);
    }
    assert_eq!(code(update(&api, sandbox("c"), &[]).await)?.0, Code::NotFound);

    for id in ["a", "b"] {
        let request = StoreDeleteRequest { sandbox_id: id.into() };
        api.sandboxes().delete(request.clone()).await?;
        assert_eq!(code(api.sandboxes().delete(request).await)?.0, Code::NotFound);
    }
    assert_eq!(list(&api, &[]).await?, [""; 0]);
    Ok(())
}
