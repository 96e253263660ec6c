//! What is collected, and what is not; collections that are cut short; and
//! checks of what is on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use containerd_api::{
    services::{
        content::v1::{Info, UpdateRequest},
        images::v1::{CreateImageRequest, DeleteImageRequest, Image},
        leases::v1::{AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource},
    },
    types::Descriptor,
};
use tests::{
    Api, Bed,
    content::{Write, blob_of, commit, data, labels, list, put, stat, statuses},
    eventually,
    faults::VARIABLE,
    program,
};

tests::every_daemon!(
    a_synchronous_delete_leaves_nothing,
    a_lease_holds_what_it_needs,
    an_expired_lease_holds_nothing,
    a_root_is_kept,
);
tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    an_image_may_expire,
    an_ingest_goes_with_its_lease,
    nobody_has_to_ask,
    a_collection_that_is_cut_short_is_ended,
    what_is_damaged_is_found,
);

/// A manifest with a configuration and layers.
struct Tree {
    manifest: String,
    all: BTreeSet<String>,
}

/// Makes content that refers to other content, by labels.
async fn tree(api: &Api, name: &str) -> Result<Tree> {
    let mut all = BTreeSet::new();
    let mut refs = BTreeMap::new();
    for (key, part) in [("config", "config"), ("l.0", "layer 0"), ("l.1", "layer 1")] {
        let digest = put(api, part, &format!("{part} of {name}")).await?;
        refs.insert(format!("containerd.io/gc.ref.content.{key}"), digest.clone());
        all.insert(digest);
    }
    let manifest = put(api, "manifest", &format!("manifest of {name}")).await?;
    all.insert(manifest.clone());
    label(api, &manifest, refs).await?;
    Ok(Tree { manifest, all })
}

async fn label(api: &Api, digest: &str, labels: BTreeMap<String, String>) -> Result<()> {
    let info = Info { digest: digest.into(), labels, ..Info::default() };
    let request = UpdateRequest { info: Some(info), update_mask: None };
    api.content().update(request).await?;
    Ok(())
}

async fn name(api: &Api, name: &str, digest: &str, pairs: &[(&str, &str)]) -> Result<()> {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: digest.into(),
        size: 1,
        annotations: BTreeMap::new(),
    };
    let (name, labels) = (name.to_owned(), labels(pairs));
    let image = Image { name, labels, target: Some(target), ..Image::default() };
    let request = CreateImageRequest { image: Some(image), source_date_epoch: None };
    api.images().create(request).await?;
    Ok(())
}

async fn unname(api: &Api, name: &str, sync: bool) -> Result<()> {
    let request = DeleteImageRequest { name: name.into(), sync, target: None };
    api.images().delete(request).await?;
    Ok(())
}

/// Lets the daemon collect, by the deletion of something that is of no matter.
async fn collect(api: &Api) -> Result<()> {
    let id = "collect".to_owned();
    api.leases().create(CreateRequest { id: id.clone(), ..CreateRequest::default() }).await?;
    api.leases().delete(DeleteRequest { id, sync: true }).await?;
    Ok(())
}

async fn lease(api: &Api, id: &str, pairs: &[(&str, &str)], held: &[(&str, &str)]) -> Result<()> {
    let request = CreateRequest { id: id.into(), labels: labels(pairs) };
    api.leases().create(request).await?;
    for (kind, what) in held {
        let resource = Resource { id: (*what).into(), r#type: (*kind).into() };
        let request = AddResourceRequest { id: id.into(), resource: Some(resource) };
        api.leases().add_resource(request).await?;
    }
    Ok(())
}

async fn release(api: &Api, id: &str) -> Result<()> {
    api.leases().delete(DeleteRequest { id: id.into(), sync: true }).await?;
    Ok(())
}

async fn content(api: &Api) -> Result<BTreeSet<String>> {
    Ok(list(api, &[]).await?.into_iter().map(|(digest, ..)| digest).collect())
}

async fn a_synchronous_delete_leaves_nothing(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let (one, two) = (tree(api, "one").await?, tree(api, "two").await?);
    let stray = put(api, "stray", "stray").await?;
    name(api, "one", &one.manifest, &[]).await?;
    name(api, "uno", &one.manifest, &[]).await?;
    name(api, "two", &two.manifest, &[]).await?;
    // Another namespace has a part of it, too.
    let other = bed.api().in_namespace("other")?;
    let shared = put(&other, "shared", "layer 0 of two").await?;
    name(&other, "shared", &shared, &[]).await?;

    unname(api, "one", true).await?;
    assert_eq!(content(api).await?, one.all.union(&two.all).cloned().collect());
    ensure!(!blob_of(&bed.daemon, &stray).exists(), "the stray is on disk");
    unname(api, "two", true).await?;
    assert_eq!(content(api).await?, one.all);
    for digest in &two.all {
        assert_eq!(blob_of(&bed.daemon, digest).exists(), *digest == shared, "{digest}");
    }
    unname(&other, "shared", true).await?;
    unname(api, "uno", true).await?;
    assert_eq!(content(api).await?, BTreeSet::new());
    for digest in one.all.iter().chain(&two.all) {
        ensure!(!blob_of(&bed.daemon, digest).exists(), "{digest} is on disk");
    }
    Ok(())
}

async fn a_lease_holds_what_it_needs(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let (deep, flat) = (tree(api, "deep").await?, tree(api, "flat").await?);
    lease(api, "deep", &[], &[("content", &deep.manifest)]).await?;
    let only = [("content", flat.manifest.as_str())];
    lease(api, "flat", &[("containerd.io/gc.flat", "1")], &only).await?;
    collect(api).await?;
    let mut expected = deep.all.clone();
    expected.insert(flat.manifest.clone());
    assert_eq!(content(api).await?, expected);
    release(api, "deep").await?;
    assert_eq!(content(api).await?, [flat.manifest].into());
    release(api, "flat").await?;
    assert_eq!(content(api).await?, BTreeSet::new());
    Ok(())
}

async fn an_expired_lease_holds_nothing(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let (old, new) = (put(api, "a", "old").await?, put(api, "a", "new").await?);
    for (id, time, digest) in
        [("old", "2001-02-03T04:05:06Z", &old), ("new", "2999-02-03T04:05:06Z", &new)]
    {
        lease(api, id, &[("containerd.io/gc.expire", time)], &[("content", digest)]).await?;
    }
    collect(api).await?;
    assert_eq!(content(api).await?, [new].into());
    let left = api.leases().list(ListRequest::default()).await?.into_inner().leases;
    assert_eq!(left.iter().map(|lease| lease.id.as_str()).collect::<Vec<_>>(), ["new"]);
    release(api, "new").await
}

async fn a_root_is_kept(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let (root, needed) = (put(api, "a", "root").await?, put(api, "a", "needed").await?);
    let pairs = [("containerd.io/gc.root", "1"), ("containerd.io/gc.ref.content", &needed)];
    label(api, &root, labels(&pairs)).await?;
    collect(api).await?;
    assert_eq!(content(api).await?, [root.clone(), needed].into());
    label(api, &root, BTreeMap::new()).await?;
    collect(api).await?;
    assert_eq!(content(api).await?, BTreeSet::new());
    Ok(())
}

/// (The original can do that since 2.0.)
async fn an_image_may_expire(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    let events = bed.events().await?;
    let (old, new) = (tree(api, "old").await?, tree(api, "new").await?);
    for (image, time, tree) in
        [("old", "2001-02-03T04:05:06Z", &old), ("new", "2999-02-03T04:05:06Z", &new)]
    {
        name(api, image, &tree.manifest, &[("containerd.io/gc.expire", time)]).await?;
    }
    collect(api).await?;
    assert_eq!(content(api).await?, new.all);
    events.sync().await?;
    let deleted = events.everything().iter().filter(|e| e.name == "/images/delete").count();
    assert_eq!(deleted, 1);
    unname(api, "new", true).await
}

async fn an_ingest_goes_with_its_lease(bed: &mut Bed) -> Result<()> {
    let api = bed.api();
    lease(api, "l", &[], &[]).await?;
    for (reference, lease) in [("leased", Some("l")), ("free", None)] {
        let (mut write, _) = Write::open_with(api, stat(reference), lease).await?;
        write.send(data(0, "beginning")).await?;
    }
    collect(api).await?;
    assert_eq!(statuses(api).await?.len(), 2);
    // A stream that was dropped may take a moment to end.
    api.leases().delete(DeleteRequest { id: "l".into(), sync: true }).await?;
    eventually(async || {
        collect(api).await?;
        let left = statuses(api).await?;
        ensure!(left == [("free".to_owned(), 9)], "{left:?}");
        Ok(())
    })
    .await?;
    let (mut write, _) = Write::open(api, stat("free")).await?;
    write.send(commit(9, "")).await?;
    collect(api).await
}

async fn nobody_has_to_ask(bed: &mut Bed) -> Result<()> {
    let config = fs::read_to_string(bed.daemon.config())?;
    let at_once = config.replace("startup_delay = \"1h\"", "startup_delay = \"0s\"");
    ensure!(at_once != config, "{config}");
    fs::write(bed.daemon.config(), at_once)?;
    bed.crash().await?;
    let api = bed.api();
    let tree = tree(api, "one").await?;
    name(api, "one", &tree.manifest, &[]).await?;
    unname(api, "one", false).await?;
    eventually(async || {
        let left = content(api).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

/// At whatever step the daemon dies, the next one ends the work, and nothing is
/// lost or left.
async fn a_collection_that_is_cut_short_is_ended(bed: &mut Bed) -> Result<()> {
    bed.daemon.use_debug_build()?;
    for place in
        ["gc.marked", "gc.removed", "gc.swept.content", "gc.swept.snapshots", "gc.swept.ingests"]
    {
        bed.daemon.stop().await?;
        bed.daemon.set_environment(&[(VARIABLE, place)]);
        bed.daemon.start(&bed.sandbox).await?;
        let api = bed.api().clone();
        let (kept, gone) = (tree(&api, "kept").await?, tree(&api, "gone").await?);
        name(&api, "kept", &kept.manifest, &[]).await?;
        name(&api, "gone", &gone.manifest, &[]).await?;
        // It dies before it answers.
        ensure!(unname(&api, "gone", true).await.is_err(), "{place} was not reached");
        eventually(async || bed.daemon.ended()?.context("it runs").map(drop)).await?;

        bed.daemon.set_environment(&[]);
        bed.daemon.start(&bed.sandbox).await?;
        collect(&api).await?;
        assert_eq!(content(&api).await?, kept.all, "{place}");
        bed.daemon.stop().await?;
        for digest in &gone.all {
            ensure!(!blob_of(&bed.daemon, digest).exists(), "{place}: {digest} is on disk");
        }
        let (good, said) = check(bed.daemon.root(), &["--strict"]).await?;
        ensure!(good, "{place}: {said}");
        bed.daemon.start(&bed.sandbox).await?;
        unname(&api, "kept", true).await?;
    }
    Ok(())
}

/// What `containerd check` says of a root, and whether that is good.
async fn check(root: &Path, flags: &[&str]) -> Result<(bool, String)> {
    let mut command = tokio::process::Command::new(program(tests::Origin::Ours, "containerd"));
    let command = command.arg("--root").arg(root).arg("check").args(flags);
    let output = command.output().await?;
    let mut said = String::from_utf8(output.stdout)?;
    said.push_str(&String::from_utf8(output.stderr)?);
    Ok((output.status.success(), said))
}

async fn what_is_damaged_is_found(bed: &mut Bed) -> Result<()> {
    let root = bed.daemon.root().to_owned();
    let tree = tree(bed.api(), "one").await?;
    name(bed.api(), "one", &tree.manifest, &[]).await?;
    let (good, said) = check(&root, &[]).await?;
    ensure!(!good && said.contains("another daemon uses"), "{said}");
    bed.daemon.stop().await?;
    let (good, said) = check(&root, &["--strict"]).await?;
    ensure!(good && said.contains("read 4 blobs"), "{said}");

    let manifest = blob_of(&bed.daemon, &tree.manifest);
    let bytes = fs::read(&manifest)?;
    fs::write(&manifest, vec![b'x'; bytes.len()])?;
    let (good, said) = check(&root, &["--quick"]).await?;
    ensure!(good, "{said}");
    let (good, said) = check(&root, &[]).await?;
    ensure!(!good && said.contains("damaged: ") && said.contains(&tree.manifest), "{said}");
    fs::remove_file(&manifest)?;
    let (good, said) = check(&root, &["--quick"]).await?;
    ensure!(!good && said.contains("image \"one\""), "{said}");
    fs::write(&manifest, bytes)?;
    fs::write(manifest.with_file_name("0".repeat(64)), "stray")?;
    let (good, said) = check(&root, &["--quick"]).await?;
    ensure!(good && said.contains("left over: "), "{said}");
    let (good, said) = check(&root, &["--quick", "--strict"]).await?;
    ensure!(!good && said.contains("left over: "), "{said}");

    bed.daemon.start(&bed.sandbox).await?;
    unname(bed.api(), "one", true).await?;
    bed.daemon.stop().await?;
    let (good, said) = check(&root, &["--strict"]).await?;
    ensure!(good && said.contains("read 0 blobs"), "{said}");
    bed.daemon.start(&bed.sandbox).await?;
    let (good, said) = check(&root.join("nothing"), &[]).await?;
    ensure!(!good && !root.join("nothing").exists(), "{said}");
    Ok(())
}
