//! Our `ctr` and client library with images, on either daemon: what it prints
//! beside Debian's, and what is left of containers that are made from images.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use containerd_api::services::snapshots::v1::RemoveSnapshotRequest;
use containerd_client::{
    Client, ConnectOptions, ErrorKind, ExportOptions, Image, ImportOptions, NameRule, OnProgress,
    Platform, PullOptions, PushOptions, RegistryOptions, Where, platform::Matcher,
};
use serde_json::json;
use tests::{
    Bed, Origin, Store,
    images::{Descriptor, Layer, Layout, busybox, many_layers},
    registry::Registry,
};

tests::every_daemon!(
    both_clients_print_the_same,
    containers_have_snapshots_of_their_own,
    a_container_that_cannot_be_made_leaves_nothing,
    users_are_looked_up_inside,
    the_library_moves_images,
    the_library_changes_images,
    a_terminal_shows_bars,
);

/// Puts an image into a registry; the answer is its reference and manifest.
async fn offer(bed: &Bed, at: &str, image: &tests::images::Image) -> Result<(String, Descriptor)> {
    let folder = tempfile::tempdir_in(bed.sandbox.folder())?;
    let (layout, manifest) = Layout::of(folder.path().join("layout"), "1", image)?;
    layout.push(&bed.sandbox, "1", at).await?;
    Ok((at.into(), manifest))
}

async fn connect(bed: &Bed) -> Result<Client> {
    Ok(ConnectOptions::new(bed.daemon.socket()).timeout(tests::DEADLINE).connect().await?)
}

async fn both_clients_print_the_same(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (one, _) = offer(bed, &registry.image("one:1"), &many_layers(3)?).await?;
    let (two, _) = offer(bed, &registry.image("two:1"), &busybox()?).await?;
    let (debian, ours) = (bed.ctr(Origin::Debian), bed.ctr(Origin::Ours));
    debian.pull(&one).await?;
    ours.pull(&two).await?;
    for words in [
        &["images", "ls"][..],
        &["images", "ls", "-q"],
        &["images", "ls", &format!("name=={two}")],
        &["images", "check"],
        &["images", "check", "-q"],
        &["images", "label", &one, "colour=blue"],
        &["images", "ls", "labels.colour==blue"],
        &["images", "label", &one, "colour="],
        &["images", "tag", "--force", &one, "example.com/three:1"],
        &["content", "ls", "-q"],
        &["containers", "ls"],
    ] {
        let (theirs, own) = (debian.ok(words).await?, ours.ok(words).await?);
        assert_eq!(own, theirs, "{words:?}");
    }
    let remove = ["images", "rm", "--sync", &two];
    assert_eq!(ours.ok(&remove).await?.trim(), two);
    assert_eq!(debian.ok(&remove).await?, "");
    assert_eq!(ours.ok(&remove).await?, "");
    ours.remove_images(&[&one, "example.com/three:1"]).await?;
    assert_eq!(Store::of(bed.api()).await?, Store::default());
    Ok(())
}

async fn containers_have_snapshots_of_their_own(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (image, _) = offer(bed, &registry.image("image:1"), &busybox()?).await?;
    let ctr = bed.ctr(Origin::Ours);
    ctr.ok(&["images", "pull", "--plain-http", "--local", &image]).await?;
    let before = Store::of(bed.api()).await?;
    assert_eq!((before.snapshots.len(), before.leases.len()), (1, 0));

    ctr.ok(&["containers", "create", "--snapshotter-label", "a=b", &image, "kept"]).await?;
    let snapshots = Store::of(bed.api()).await?.snapshots;
    ensure!(snapshots.len() == 2 && snapshots.contains("kept"), "{snapshots:?}");
    // The one that is there stays as it is.
    let twice = ctr.run(&["containers", "create", &image, "kept"]).await?;
    ensure!(twice.code != Some(0) && twice.stderr.contains("already exists"), "{twice:?}");
    assert_eq!(Store::of(bed.api()).await?.snapshots, snapshots);

    // What a container writes is gone with it, and another one never sees it.
    let write = ["run", "--rm", &image, "writes", "/bin/sh", "-c", "echo x > /made; cat /made"];
    assert_eq!(ctr.ok(&write).await?, "x\n");
    let read = ["run", "--rm", &image, "reads", "/bin/sh", "-c", "cat /made 2>/dev/null; echo end"];
    assert_eq!(ctr.ok(&read).await?, "end\n");
    let read_only = ["/bin/sh", "-c", "echo x 2>/dev/null > /made || echo refused"];
    let words = [&["run", "--rm", "--read-only", &image, "cannot"][..], &read_only].concat();
    assert_eq!(ctr.ok(&words).await?, "refused\n");
    assert_eq!(Store::of(bed.api()).await?.snapshots, snapshots);

    ctr.ok(&["containers", "rm", "--keep-snapshot", "kept"]).await?;
    assert_eq!(Store::of(bed.api()).await?.snapshots, snapshots);
    let kept = RemoveSnapshotRequest { snapshotter: "overlayfs".into(), key: "kept".into() };
    bed.api().snapshots().remove(kept).await?;
    ctr.ok(&["containers", "create", &image, "gone"]).await?;
    ctr.ok(&["containers", "rm", "gone"]).await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    ctr.remove_images(&[&image]).await
}

async fn a_container_that_cannot_be_made_leaves_nothing(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (image, _) = offer(bed, &registry.image("image:1"), &busybox()?).await?;
    let ctr = bed.ctr(Origin::Ours);
    ctr.pull(&image).await?;
    let before = Store::of(bed.api()).await?;
    for (flags, word) in [
        (&["--user", "stranger"][..], "stranger"),
        (&["--label", "containerd.io/very=long", "--user", "0:strangers"], "strangers"),
        (&["--snapshotter", "nowhere"], "nowhere"),
        (&["--platform", "neverland"], "neverland"),
    ] {
        let words = [&["containers", "create"], flags, &[&image, "never"]].concat();
        let failed = ctr.run(&words).await?;
        ensure!(failed.code != Some(0) && failed.stderr.contains(word), "{flags:?}: {failed:?}");
        assert_eq!(Store::of(bed.api()).await?, before, "{flags:?}");
    }
    let unknown = ctr.run(&["run", "--rm", "example.com/none:1", "never"]).await?;
    ensure!(unknown.stderr.contains("not found"), "{unknown:?}");
    ctr.remove_images(&[&image]).await
}

/// Links in an image lead nowhere but to files of the image.
async fn users_are_looked_up_inside(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let ctr = bed.ctr(Origin::Ours);
    let outside = bed.sandbox.path("passwd");
    std::fs::write(&outside, "spy:x:4711:4711::/:/bin/sh\n")?;
    let outside = outside.display().to_string();
    let inside = "agent:x:1234:1234::/:/bin/sh\n";
    for (name, target, user, said) in [
        ("absolute", outside.as_str(), "spy", None),
        ("relative", &format!("../../../../../..{outside}"), "spy", None),
        ("kept", "/files/passwd", "agent", Some("1234\n")),
    ] {
        let mut layer = Layer::new();
        layer.folder("files", 0o755)?.file("files/passwd", 0o644, inside.as_bytes())?;
        layer.symlink("etc/passwd", target)?;
        let image = busybox()?.layer(layer.finish()?).with("User", json!(user));
        let (image, _) = offer(bed, &registry.image(&format!("{name}:1")), &image).await?;
        ctr.pull(&image).await?;
        let output = ctr.run(&["run", "--rm", &image, "who", "/bin/id", "-u"]).await?;
        match said {
            Some(said) => assert_eq!(output.ok()?, said, "{name}"),
            None => ensure!(output.code != Some(0) && output.stderr.contains(user), "{output:?}"),
        }
        ctr.remove_images(&[&image]).await?;
    }
    Ok(())
}

async fn the_library_moves_images(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, made) = offer(bed, &registry.image("image:1"), &many_layers(2)?).await?;
    let namespace = connect(bed).await?.namespace(bed.namespace());
    let images = namespace.images();
    for place in [Where::Local, Where::Anywhere] {
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        let progress: OnProgress = Arc::new(move |progress| {
            if let Ok(mut events) = told.lock() {
                events.push((progress.name, progress.event));
            }
        });
        let plain = RegistryOptions { plain_http: true, ..RegistryOptions::default() };
        let options = PullOptions {
            registry: plain.clone(),
            unpack: Some(String::new()),
            labels: [("colour".to_owned(), "blue".to_owned())].into(),
            place,
            progress: Some(progress),
            ..PullOptions::default()
        };
        let image = namespace.pull(&reference, &options).await?;
        assert_eq!(image.target.digest.to_string(), made.digest);
        assert_eq!(image.labels["colour"], "blue");
        let told = events.lock().map(|events| events.clone()).unwrap_or_default();
        let layers =
            told.iter().filter(|(name, event)| name.starts_with("layer-") && event == "extracted");
        assert_eq!(layers.count(), 3, "{told:?}");
        let contents = images.contents(&image, &Matcher::host()).await?;
        assert_eq!(contents.layers.len(), 3);
        ensure!(images.is_unpacked(&contents, "overlayfs").await?, "not unpacked");
        let check = images.check(&image, &Matcher::host()).await?;
        assert_eq!((check.available, check.present.len()), (true, 4));

        let other = registry.image("pushed:1");
        let options = PushOptions { registry: plain, place, ..PushOptions::default() };
        namespace.push(&reference, &other, &options).await?;
        let file = bed.sandbox.path("exported.tar");
        let archive = tokio::fs::File::create(&file).await?;
        let options = ExportOptions { place, ..ExportOptions::default() };
        namespace.export(std::slice::from_ref(&reference), archive, &options).await?;
        images.delete(&reference, true).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());

        let options = ImportOptions {
            names: vec![NameRule {
                name: reference.clone(),
                is_prefix: true,
                allow_overwrite: true,
                ..NameRule::default()
            }],
            unpack: Some((Platform::host(), String::new())),
            place,
            ..ImportOptions::default()
        };
        namespace.import(tokio::fs::File::open(&file).await?, &options).await?;
        let image = images.get(&reference).await?;
        assert_eq!(image.target.digest.to_string(), made.digest);
        let contents = images.contents(&image, &Matcher::host()).await?;
        assert_eq!(images.usage(&contents, "overlayfs").await?.len(), 3);
        images.delete(&reference, true).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    let options = PullOptions {
        registry: RegistryOptions { plain_http: true, ..RegistryOptions::default() },
        ..PullOptions::default()
    };
    let missing = namespace.pull(&registry.image("missing:1"), &options).await;
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
    Ok(())
}

fn kind<T>(outcome: containerd_client::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

async fn the_library_changes_images(bed: &mut Bed) -> Result<()> {
    let namespace = connect(bed).await?.namespace(bed.namespace());
    let images = namespace.images();
    let target = |letter: &str| -> Result<containerd_client::Descriptor> {
        let digest = containerd_client::Digest::parse(&format!("sha256:{}", letter.repeat(64)))?;
        Ok(containerd_client::Descriptor::new("text/plain", digest, 7))
    };
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let made = images.create(Image::new("a", target("1")?)).await?;
    ensure!(made.created_at.is_some() && made.target.size == 7, "{made:?}");
    let again = images.create(Image::new("a", target("1")?)).await;
    assert_eq!(kind(again), Some(ErrorKind::AlreadyExists));
    images.set_labels("a", labels(&[("x", "1"), ("y", "2")])).await?;
    let changed = images.set_labels("a", labels(&[("x", ""), ("z", "3")])).await?;
    assert_eq!(changed.labels, labels(&[("y", "2"), ("z", "3")]));
    let changed = images.replace_labels("a", labels(&[("w", "4")])).await?;
    assert_eq!((&changed.labels, &changed.target), (&labels(&[("w", "4")]), &made.target));
    let changed = images.set_target("a", target("2")?).await?;
    assert_eq!((&changed.labels, changed.target), (&labels(&[("w", "4")]), target("2")?));
    let put = images.put(Image::new("a", target("3")?)).await?;
    assert_eq!((put.labels.len(), put.target), (0, target("3")?));
    images.tag("a", "b", false).await?;
    let taken = images.tag("a", "b", false).await;
    assert_eq!(kind(taken), Some(ErrorKind::AlreadyExists));
    images.set_target("a", target("4")?).await?;
    assert_eq!(images.tag("a", "b", true).await?.target, target("4")?);
    let listed = images.list(&["name==b".into()]).await?;
    assert_eq!(listed.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["b"]);
    for name in ["a", "b"] {
        images.delete(name, false).await?;
        assert_eq!(kind(images.get(name).await), Some(ErrorKind::NotFound));
    }
    assert_eq!(kind(images.delete("a", true).await), Some(ErrorKind::NotFound));

    // A lease lasts as long as the work under it.
    let leases = namespace.leases();
    let inside = namespace
        .under_lease(async |namespace| {
            let lease = namespace.lease().unwrap_or_default().to_owned();
            Ok((lease, leases.list(&[]).await?))
        })
        .await?;
    let (id, held) = inside;
    let held = held.first().context("no lease")?;
    ensure!(held.id == id && held.labels.contains_key("containerd.io/gc.expire"), "{held:?}");
    assert_eq!(leases.list(&[]).await?, []);
    Ok(())
}

async fn a_terminal_shows_bars(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (image, _) = offer(bed, &registry.image("image:1"), &many_layers(2)?).await?;
    let ctr = bed.ctr(Origin::Ours);
    let mut terminal = ctr.terminal(&["images", "pull", "--plain-http", &image])?;
    terminal.until("done: ").await?;
    ensure!(terminal.wait().await?.success(), "{}", terminal.screen());
    let screen = terminal.screen();
    for part in ["layer (", "extracted", "elapsed: ", "B/s)"] {
        ensure!(screen.contains(part), "no {part} in {screen}");
    }
    ctr.remove_images(&[&image]).await
}
