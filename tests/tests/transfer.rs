//! The transfer service: what clients of containerd 2 move images with.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use containerd_api::{
    services::images::v1::{DeleteImageRequest, GetImageRequest},
    types::{
        Platform,
        transfer::{
            AuthRequest, AuthResponse, AuthType, ImageExportStream, ImageImportStream,
            ImageReference, ImageStore, OciRegistry, Progress, UnpackConfiguration,
        },
    },
};
use tests::{
    Bed, Store, code,
    content::{get, statuses},
    images::{Layout, architecture, many_layers},
    registry::{Fault, Options, PASSWORD, Registry, Rule, USER},
    transfer::{Stream, remote, transfer},
};
use tokio::sync::mpsc;
use tonic::Code;

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    an_image_is_pulled_named_and_pushed,
    an_image_goes_through_an_archive,
    credentials_are_asked_for,
    a_pull_ends_with_its_client_and_goes_on_later,
    what_cannot_be_done_is_refused,
    streams_have_names,
);

/// This machine, as clients name it.
fn here() -> Platform {
    Platform { os: "linux".into(), architecture: architecture().into(), ..Default::default() }
}

/// An image of this daemon, to be unpacked.
fn local(name: &str) -> ImageStore {
    let unpack = UnpackConfiguration { platform: Some(here()), snapshotter: "overlayfs".into() };
    ImageStore {
        name: name.into(),
        platforms: vec![here()],
        unpacks: vec![unpack],
        ..Default::default()
    }
}

fn events(progress: &[Progress]) -> Vec<&str> {
    progress.iter().map(|told| told.event.as_str()).collect()
}

async fn remove(bed: &Bed, name: &str) -> Result<()> {
    let request = DeleteImageRequest { name: name.into(), sync: true, ..Default::default() };
    bed.api().images().delete(request).await?;
    Ok(())
}

async fn target(bed: &Bed, name: &str) -> Result<String> {
    let request = GetImageRequest { name: name.into() };
    let image = bed.api().images().get(request).await?.into_inner().image;
    Ok(image.and_then(|image| image.target).context("no target")?.digest)
}

/// An image of so many layers in a registry.
async fn offer(bed: &Bed, registry: &Registry, layers: usize) -> Result<(String, String)> {
    let folder = tempfile::tempdir_in(bed.sandbox.folder())?;
    let (layout, made) = Layout::of(folder.path().join("layout"), "1", &many_layers(layers)?)?;
    let reference = registry.image("image:1");
    layout.push(&bed.sandbox, "1", &reference).await?;
    Ok((reference, made.digest))
}

/// Does a transfer, and answers what was told of it.
async fn told<S, D>(bed: &Bed, source: &S, destination: &D) -> Result<Vec<Progress>>
where
    S: prost::Message + prost::Name,
    D: prost::Message + prost::Name,
{
    let stream = Stream::open(bed.api(), "progress").await?;
    let (done, progress) =
        tokio::join!(transfer(bed.api(), source, destination, "progress"), stream.progress());
    done?;
    progress
}

async fn an_image_is_pulled_named_and_pushed(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, digest) = offer(bed, &registry, 4).await?;
    let source = remote(&reference);
    let progress = told(bed, &source, &local(&reference)).await?;
    let said = format!("OCI Registry ({reference})");
    let events_told = events(&progress);
    // Between them is told what changes meanwhile.
    let steps: Vec<_> = events_told.iter().filter(|event| event.ends_with(&said)).collect();
    let expected =
        ["Resolving", "Pulling", "Completed pull"].map(|step| format!("{step} from {said}"));
    assert_eq!(steps, expected.iter().collect::<Vec<_>>());
    assert_eq!(events_told.iter().filter(|event| **event == "saved").count(), 1);
    // Manifest, configuration and five layers: each waits, and each is there.
    let parts: BTreeSet<_> =
        progress.iter().filter(|told| told.event == "waiting").map(|told| &told.name).collect();
    assert_eq!(parts.len(), 7, "{events_told:?}");
    for part in parts {
        let last = progress.iter().rfind(|told| told.name == *part).context("nothing more")?;
        let expected = if part.starts_with("layer-") { "extracted" } else { "complete" };
        assert_eq!(last.event, expected, "{part}");
        assert_eq!(last.progress, last.total, "{part}");
    }
    let store = Store::of(bed.api()).await?;
    assert_eq!(store.images, BTreeSet::from([(reference.clone(), digest.clone())]));
    assert_eq!((store.content.len(), store.snapshots.len()), (7, 5));
    assert!(store.leases.is_empty() && store.ingests.is_empty(), "{store:?}");
    bed.image_clients()[0].run_image(&reference, "pulled", "hello\n").await?;

    let progress = told(bed, &source, &local(&reference)).await?;
    let again = events(&progress);
    assert_eq!(again.iter().filter(|event| **event == "already exists").count(), 7, "{again:?}");
    assert!(!again.contains(&"extracting"));

    transfer(bed.api(), &local(&reference), &local("example.com/other:1"), "").await?;
    assert_eq!(target(bed, "example.com/other:1").await?, digest);

    let elsewhere = registry.image("elsewhere:2");
    let whole = ImageStore { name: "example.com/other:1".into(), ..Default::default() };
    let progress = told(bed, &whole, &remote(&elsewhere)).await?;
    let pushed = events(&progress);
    assert!(pushed.contains(&"pushed content"), "{pushed:?}");
    assert_eq!(pushed.iter().filter(|event| **event == "waiting").count(), 7);
    transfer(bed.api(), &remote(&elsewhere), &local("back"), "").await?;
    assert_eq!(target(bed, "back").await?, digest);
    for name in [&reference, "example.com/other:1", "back"] {
        remove(bed, name).await?;
    }
    assert_eq!(Store::of(bed.api()).await?, Store::default());
    Ok(())
}

/// Exports images; what a client has read when its request was answered.
async fn export(bed: &Bed, names: &[&str]) -> Result<Vec<u8>> {
    let reference = |name: &&str| ImageReference { name: (*name).into(), ..Default::default() };
    let source = ImageStore {
        extra_references: names.iter().map(reference).collect(),
        ..Default::default()
    };
    let stream = Stream::open(bed.api(), "export").await?;
    let (read, mut pieces) = mpsc::channel(1);
    let reading = tokio::spawn(stream.read_bytes(read));
    let destination = ImageExportStream { stream: "export".into(), ..Default::default() };
    let mut exporting = std::pin::pin!(transfer(bed.api(), &source, &destination, ""));
    let mut archive = Vec::new();
    let exported = loop {
        tokio::select! {
            // When all is exported, the last piece is here.
            biased;
            Some(piece) = pieces.recv() => archive.extend(piece),
            exported = &mut exporting => break exported,
        }
    };
    // What is not read by now would be lost.
    drop(pieces);
    exported?;
    reading.await??;
    Ok(archive)
}

async fn import(bed: &Bed, archive: &[u8], destination: &ImageStore) -> Result<()> {
    let stream = Stream::open(bed.api(), "import").await?;
    let source = ImageImportStream { stream: "import".into(), ..Default::default() };
    let (done, sent) =
        tokio::join!(transfer(bed.api(), &source, destination, ""), stream.send_bytes(archive));
    done?;
    sent
}

async fn an_image_goes_through_an_archive(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, digest) = offer(bed, &registry, 3).await?;
    transfer(bed.api(), &remote(&reference), &local(&reference), "").await?;
    let before = Store::of(bed.api()).await?;
    let mut archive = Vec::new();
    for _ in 0..5 {
        let exported = export(bed, &[&reference]).await?;
        ensure!(archive.is_empty() || archive == exported, "it is another archive");
        archive = exported;
    }
    let entries = tar::Archive::new(&archive[..]).entries()?.count();
    // Six blobs, two folders and three files.
    assert_eq!(entries, 11);
    remove(bed, &reference).await?;
    assert_eq!(Store::of(bed.api()).await?, Store::default());

    // The full name in the archive counts, as it begins like that.
    let (prefix, _) = reference.rsplit_once(':').context("no tag")?;
    let rule = ImageReference { name: prefix.into(), is_prefix: true, ..Default::default() };
    let destination = ImageStore { extra_references: vec![rule], ..local("") };
    import(bed, &archive, &destination).await?;
    let after = Store::of(bed.api()).await?;
    assert_eq!((&after.images, &after.snapshots), (&before.images, &before.snapshots));
    // The archive's own index is there too, until it is collected.
    assert!(after.content.is_superset(&before.content), "{after:?}");
    assert_eq!(target(bed, &reference).await?, digest);
    bed.image_clients()[0].run_image(&reference, "imported", "hello\n").await?;
    remove(bed, &reference).await?;

    // What ends too early is an error, and leaves nothing.
    let cut = import(bed, &archive[..archive.len() / 2], &destination).await;
    ensure!(cut.is_err(), "half an archive was taken");
    let garbage = import(bed, b"this is no archive at all", &destination).await;
    ensure!(garbage.is_err(), "garbage was taken");
    settle(bed).await
}

/// Waits until nothing is left: what had no name is collected.
async fn settle(bed: &Bed) -> Result<()> {
    let mut leases = bed.api().leases();
    let request = containerd_api::services::leases::v1::CreateRequest::default();
    let lease = leases.create(request).await?.into_inner().lease.context("no lease")?;
    let delete = containerd_api::services::leases::v1::DeleteRequest { id: lease.id, sync: true };
    bed.api().leases().delete(delete).await?;
    assert_eq!(Store::of(bed.api()).await?, Store::default());
    Ok(())
}

async fn credentials_are_asked_for(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start_with(Options { password: true, ..Options::default() })?;
    let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(1)?)?;
    let name = registry.image("image:1");
    let own = layout.archive()?;
    let rule =
        ImageReference { name: "example.com/a".into(), is_prefix: true, ..Default::default() };
    let destination = ImageStore { extra_references: vec![rule], ..local("") };
    import(bed, &std::fs::read(own)?, &destination).await?;
    let image = ImageStore { name: "example.com/a:1".into(), ..Default::default() };
    for (password, good) in [("wrong", false), (PASSWORD, true)] {
        let mut stream = Stream::open(bed.api(), "auth").await?;
        let mut registry = remote(&name);
        if let Some(resolver) = &mut registry.resolver {
            resolver.auth_stream = "auth".into();
        }
        let answers = async {
            let mut asked = 0;
            while let Some(question) = stream.receive::<AuthRequest>().await? {
                assert_eq!(question.reference, name);
                ensure!(name.starts_with(&question.host), "{question:?}");
                asked += 1;
                let answer = AuthResponse {
                    auth_type: AuthType::Credentials.into(),
                    username: USER.into(),
                    secret: password.into(),
                    expire_at: None,
                };
                stream.send(&answer).await?;
            }
            ensure!(asked > 0, "nobody asked");
            anyhow::Ok(())
        };
        let (pushed, answered) = tokio::join!(transfer(bed.api(), &image, &registry, ""), answers);
        answered?;
        match good {
            true => pushed?,
            false => drop(code(pushed)?),
        }
    }
    remove(bed, "example.com/a:1").await
}

async fn a_pull_ends_with_its_client_and_goes_on_later(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (made, _) = offer(bed, &registry, 2).await?;
    let proxy = registry.proxy().await?;
    // The lowest layer has some hundred kilobytes: most of it comes, and then
    // nothing more.
    let sent = 600 << 10;
    proxy.rule(Rule::always("/blobs/", Fault::Stall(sent)));
    let reference = proxy.image("image:1");
    let mut stream = Stream::open(bed.api(), "progress").await?;
    {
        let (source, destination) = (remote(&reference), local(&reference));
        let pull = transfer(bed.api(), &source, &destination, "progress");
        let mut pull = std::pin::pin!(pull);
        // Manifest, configuration and the layers above; what is being fetched when
        // the client goes would stay half fetched, too.
        let others = 4;
        let arrived = async {
            let (mut begun, mut complete) = (false, BTreeSet::new());
            while !begun || complete.len() < others {
                let told = stream.receive::<Progress>().await?.context("the progress ended")?;
                begun |= told.event == "downloading" && told.progress >= 512 << 10;
                if told.event == "complete" {
                    complete.insert(told.name);
                }
            }
            anyhow::Ok(())
        };
        tokio::select! {
            done = &mut pull => bail!("it did not hang: {done:?}"),
            arrived = arrived => arrived?,
        }
    }
    // The transfer ends; nothing is half unpacked.
    while stream.receive::<Progress>().await.is_ok_and(|told| told.is_some()) {}
    let store = Store::of(bed.api()).await?;
    assert!(store.images.is_empty(), "{store:?}");
    assert!(!store.snapshots.iter().any(|key| key.starts_with("extract-")), "{store:?}");
    assert_eq!(statuses(bed.api()).await?.len(), 1);

    proxy.mend();
    proxy.take_seen();
    transfer(bed.api(), &remote(&reference), &local(&reference), "").await?;
    let ranges: Vec<_> = proxy.take_seen().into_iter().filter_map(|seen| seen.range).collect();
    ensure!(ranges.iter().any(|range| *range != "bytes=0-"), "{ranges:?}");
    bed.image_clients()[0].run_image(&reference, "resumed", "hello\n").await?;
    let _ = made;
    remove(bed, &reference).await?;
    Ok(())
}

async fn what_cannot_be_done_is_refused(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, _) = offer(bed, &registry, 1).await?;
    let api = bed.api();
    let refused = async |outcome, expected: Code| -> Result<()> {
        let (found, message) = code(outcome)?;
        assert_eq!(found, expected, "{message}");
        Ok(())
    };
    let export = ImageExportStream { stream: "none".into(), ..Default::default() };
    let import = ImageImportStream { stream: "none".into(), ..Default::default() };
    let image = local(&reference);
    refused(transfer(api, &remote(&reference), &export, "").await, Code::Unimplemented).await?;
    refused(transfer(api, &here(), &image, "").await, Code::InvalidArgument).await?;
    refused(transfer(api, &import, &image, "").await, Code::NotFound).await?;
    refused(transfer(api, &image, &export, "").await, Code::NotFound).await?;
    refused(transfer(api, &image, &image, "none").await, Code::NotFound).await?;
    refused(transfer(api, &image, &local("other"), "").await, Code::NotFound).await?;
    refused(transfer(api, &remote("a b"), &image, "").await, Code::InvalidArgument).await?;
    let absent = remote(&registry.image("absent:1"));
    refused(transfer(api, &absent, &image, "").await, Code::NotFound).await?;
    let mut unknown = local(&reference);
    unknown.unpacks[0].snapshotter = "unknown".into();
    let outcome = transfer(api, &remote(&reference), &unknown, "").await;
    refused(outcome, Code::InvalidArgument).await?;
    let scheme = OciRegistry {
        resolver: Some(containerd_api::types::transfer::RegistryResolver {
            default_scheme: "ftp".into(),
            ..Default::default()
        }),
        ..remote(&reference)
    };
    refused(transfer(api, &scheme, &image, "").await, Code::InvalidArgument).await?;
    let other = Platform { architecture: "s390x".into(), ..here() };
    let elsewhere = ImageStore { platforms: vec![other], ..local(&reference) };
    // A manifest without an index is taken for what is wanted.
    transfer(api, &remote(&reference), &elsewhere, "").await?;
    remove(bed, &reference).await?;
    let outcome = transfer(&api.without_namespace(), &image, &image, "").await;
    refused(outcome, Code::FailedPrecondition).await?;
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    ensure!(get(bed.api(), digest, 0, 0).await.is_err());
    settle(bed).await
}

async fn streams_have_names(bed: &mut Bed) -> Result<()> {
    let first = Stream::open(bed.api(), "one").await?;
    let (found, _) = code(Stream::open(bed.api(), "one").await)?;
    assert_eq!(found, Code::AlreadyExists);
    let elsewhere = bed.api().in_namespace("elsewhere")?;
    drop(Stream::open(&elsewhere, "one").await?);
    drop(first);
    // The name is free as soon as the daemon has noticed.
    let again = loop {
        match Stream::open(bed.api(), "one").await {
            Err(e) if e.code() == Code::AlreadyExists => tokio::task::yield_now().await,
            opened => break opened?,
        }
    };
    // What is sent comes back, over two streams.
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (read, mut pieces) = mpsc::channel(1);
    let back = tokio::spawn(Stream::open(bed.api(), "two").await?.read_bytes(read));
    let gather = async {
        let mut all = Vec::new();
        while let Some(piece) = pieces.recv().await {
            all.extend(piece);
        }
        all
    };
    let source = ImageImportStream { stream: "one".into(), ..Default::default() };
    let destination = ImageExportStream { stream: "two".into(), ..Default::default() };
    let (done, sent, came) = tokio::join!(
        transfer(bed.api(), &source, &destination, ""),
        again.send_bytes(&content),
        gather
    );
    done?;
    sent?;
    back.await??;
    assert!(came == content);
    Ok(())
}
