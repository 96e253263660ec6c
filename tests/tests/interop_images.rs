//! Images, snapshots and leases by `ctr`, Debian's and ours, with either daemon;
//! and a root that two daemons use in turn.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use containerd_api::services::{
    leases::v1::{AddResourceRequest, Resource},
    snapshots::v1::ViewSnapshotRequest,
};
use serde_json::json;
use tests::{
    Bed, Origin, Store,
    content::{get, list},
    images::{Descriptor, Image, Layout, busybox, many_layers},
    registry::Registry,
};

tests::every_daemon!(
    images_are_managed,
    snapshots_are_managed,
    content_is_fetched_and_unpacked,
    what_an_image_says_of_its_process_holds,
    a_lease_holds_an_image,
);
tests::pairing!(only_ours, tests::Pairing::OURS, a_root_of_the_original_is_taken_over,);

/// Puts an image into a registry; the answer is its reference and manifest.
async fn offer(bed: &Bed, at: &str, image: &Image) -> Result<(String, Descriptor)> {
    let folder = tempfile::tempdir_in(bed.sandbox.folder())?;
    let (layout, manifest) = Layout::of(folder.path().join("layout"), "1", image)?;
    layout.push(&bed.sandbox, "1", at).await?;
    Ok((at.into(), manifest))
}

async fn images_are_managed(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, made) = offer(bed, &registry.image("image:1"), &many_layers(2)?).await?;
    for ctr in bed.image_clients() {
        let pull = ["images", "pull", "--plain-http", "--label", "colour=blue", &reference];
        ctr.ok(&pull).await?;
        assert_eq!(ctr.ok(&["images", "ls", "-q"]).await?.trim(), reference);
        let listed = ctr.ok(&["images", "ls"]).await?;
        let line = listed.lines().find(|line| line.starts_with(&reference)).context("no line")?;
        for part in [&made.media_type, &made.digest, "linux/amd64", "colour=blue"] {
            ensure!(line.contains(part), "no {part} in {listed}");
        }
        let checked = ctr.ok(&["images", "check"]).await?;
        ensure!(checked.contains("complete (4/4)") || checked.contains("5/5"), "{checked}");
        ctr.ok(&["images", "label", &reference, "kind=small"]).await?;
        let filtered = ctr.ok(&["images", "ls", "-q", "labels.kind==small"]).await?;
        assert_eq!(filtered.trim(), reference);
        assert_eq!(ctr.ok(&["images", "ls", "-q", "labels.kind==large"]).await?, "");

        let target = bed.sandbox.path("mounted");
        fs::create_dir_all(&target)?;
        let path = target.display().to_string();
        ctr.ok(&["images", "mount", &reference, &path]).await?;
        assert_eq!(inside(bed, &["cat", &format!("{path}/top")])?, "2\n");
        ctr.ok(&["images", "unmount", "--rm", &path]).await?;
        ensure!(bed.sandbox.mounts_below(&target).is_empty(), "it is still mounted");

        ctr.ok(&["images", "tag", &reference, "example.com/other:1"]).await?;
        ctr.remove_images(&[&reference]).await?;
        ctr.run_image("example.com/other:1", "tagged", "hello\n").await?;
        let twice = ctr.run(&["images", "rm", &reference]).await?;
        ensure!(twice.stderr.contains("not found"), "{twice:?}");
        ctr.remove_images(&["example.com/other:1"]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    Ok(())
}

async fn snapshots_are_managed(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, _) = offer(bed, &registry.image("image:1"), &many_layers(3)?).await?;
    for ctr in bed.image_clients() {
        ctr.pull(&reference).await?;
        let snapshots = async |words: &[&str]| ctr.ok(&[&["snapshots"], words].concat()).await;
        let listed = snapshots(&["ls"]).await?;
        let committed = listed.lines().filter(|line| line.contains("Committed")).count();
        assert_eq!(committed, 4, "{listed}");
        let top = top_of(&listed)?;

        let target = bed.sandbox.path("target");
        fs::create_dir_all(&target)?;
        let path = target.display().to_string();
        let commands = snapshots(&["prepare", "--target", &path, "active", &top]).await?;
        assert_eq!(snapshots(&["mounts", &path, "active"]).await?.trim(), commands.trim());
        inside(bed, &["sh", "-c", commands.trim()])?;
        let change = format!("cd {path} && cat top && echo new > added && rm layers/2");
        assert_eq!(inside(bed, &["sh", "-c", &change])?, "3\n");
        inside(bed, &["umount", &path])?;
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let diff = snapshots(&["diff", "--media-type", tar, "active"]).await?;
        for (name, expected) in
            [("added", true), ("layers/.wh.2", true), ("layers/1", false), ("bin/busybox", false)]
        {
            assert_eq!(diff.contains(name), expected, "{name}");
        }
        snapshots(&["label", "active", "colour=blue"]).await?;
        snapshots(&["commit", "committed", "active"]).await?;
        let info = snapshots(&["info", "committed"]).await?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        assert_eq!(info["Kind"], "Committed");
        assert_eq!(info["Parent"], *top);
        let usage = snapshots(&["usage", "committed"]).await?;
        ensure!(usage.contains("KiB") || usage.contains("kB"), "{usage}");
        let tree = snapshots(&["tree"]).await?;
        ensure!(tree.contains("committed"), "{tree}");
        // By hand, because a view that ctr makes is garbage from the start.
        let view = ViewSnapshotRequest {
            snapshotter: "overlayfs".into(),
            key: "seen".into(),
            parent: "committed".into(),
            labels: [("containerd.io/gc.root".to_owned(), "now".to_owned())].into(),
        };
        bed.api().snapshots().view(view).await?;
        let view = snapshots(&["mounts", &path, "seen"]).await?;
        inside(bed, &["sh", "-c", view.trim()])?;
        let look = format!("cd {path} && cat added; ls layers; ! echo x 2>/dev/null > written");
        assert_eq!(inside(bed, &["sh", "-c", &look])?, "new\n1\n3\n");
        inside(bed, &["umount", &path])?;
        // What others stand on stays.
        let refused = ctr.run(&["snapshots", "rm", "committed"]).await?;
        ensure!(refused.code != Some(0), "{refused:?}");
        snapshots(&["rm", "seen"]).await?;
        snapshots(&["rm", "committed"]).await?;
        ctr.remove_images(&[&reference]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    Ok(())
}

/// The snapshot on which none stands.
fn top_of(listed: &str) -> Result<String> {
    let lines: Vec<Vec<&str>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let parents: BTreeSet<&str> =
        lines.iter().filter(|line| line.len() == 3).map(|line| line[1]).collect();
    let top = lines.iter().map(|line| line[0]).find(|key| !parents.contains(key));
    Ok(top.context("no top")?.to_owned())
}

async fn content_is_fetched_and_unpacked(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, made) = offer(bed, &registry.image("image:1"), &many_layers(2)?).await?;
    for ctr in bed.image_clients() {
        ctr.ok(&["content", "fetch", "--plain-http", &reference]).await?;
        let store = Store::of(bed.api()).await?;
        assert_eq!((store.images.len(), store.content.len(), store.snapshots.len()), (1, 5, 0));
        let unpacked = ctr.ok(&["snapshots", "unpack", &made.digest]).await?;
        ensure!(unpacked.contains("sha256:"), "{unpacked}");
        ctr.run_image(&reference, "unpacked", "hello\n").await?;
        assert_eq!(Store::of(bed.api()).await?.snapshots.len(), 3);
        // Layers are of no more use now.
        ctr.ok(&["content", "prune", "references"]).await?;
        let store = Store::of(bed.api()).await?;
        assert_eq!((store.content.len(), store.snapshots.len()), (2, 3));
        ctr.run_image(&reference, "pruned", "hello\n").await?;
        ctr.remove_images(&[&reference]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    Ok(())
}

async fn what_an_image_says_of_its_process_holds(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let script = "id -u; id -g; pwd; echo $GREETING $0; touch /made && echo made";
    let image = busybox()?
        .with("Entrypoint", json!(["/bin/sh", "-c"]))
        .with("Cmd", json!([script, "name"]))
        .with("Env", json!(["PATH=/bin", "GREETING=hello"]))
        .with("WorkingDir", json!("/tmp"));
    let (root, _) = offer(bed, &registry.image("root:1"), &image).await?;
    let by_name = image.clone().with("User", json!("user"));
    let (by_name, _) = offer(bed, &registry.image("name:1"), &by_name).await?;
    let by_id = image.with("User", json!("7:2000"));
    let (by_id, _) = offer(bed, &registry.image("id:1"), &by_id).await?;
    for ctr in bed.image_clients() {
        for (reference, said) in [
            (&root, "0\n0\n/tmp\nhello name\nmade\n"),
            (&by_name, "1000\n1000\n/tmp\nhello name\n"),
            (&by_id, "7\n2000\n/tmp\nhello name\n"),
        ] {
            ctr.pull(reference).await?;
            // Who may not make a file ends with a code.
            let output = ctr.run(&["run", "--rm", reference, "said"]).await?;
            ctr.expect(&output.stdout, said).with_context(|| format!("{output:?}"))?;
        }
        let words = ["run", "--rm", "--cwd", "/etc", &root, "said", "/bin/sh", "-c", "pwd"];
        ctr.expect(&ctr.ok(&words).await?, "/etc\n")?;
        ctr.remove_images(&[&root, &by_name, &by_id]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    Ok(())
}

async fn a_lease_holds_an_image(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (reference, made) = offer(bed, &registry.image("image:1"), &many_layers(2)?).await?;
    for ctr in bed.image_clients() {
        ctr.pull(&reference).await?;
        ctr.ok(&["leases", "create", "--id", "held", "colour=blue"]).await?;
        let listed = ctr.ok(&["leases", "ls"]).await?;
        ensure!(listed.contains("held") && listed.contains("colour=blue"), "{listed}");
        let resource = Resource { r#type: "content".into(), id: made.digest.clone() };
        let request = AddResourceRequest { id: "held".into(), resource: Some(resource) };
        bed.api().leases().add_resource(request).await?;
        let before = Store::of(bed.api()).await?;
        ctr.remove_images(&[&reference]).await?;
        let after = Store::of(bed.api()).await?;
        assert_eq!((&after.content, &after.snapshots), (&before.content, &before.snapshots));
        ctr.ok(&["leases", "delete", "--sync", "held"]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    Ok(())
}

/// What Debian's daemon has pulled need not be pulled again, and what it has
/// unpacked is still its own when it comes back.
async fn a_root_of_the_original_is_taken_over(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let (_, made) = offer(bed, &registry.image("image:1"), &many_layers(3)?).await?;
    let proxy = registry.proxy().await?;
    let reference = proxy.image("image:1");
    let second = busybox()?.with("Cmd", json!(["/bin/echo", "second"]));
    let (second, _) = offer(bed, &registry.image("second:1"), &second).await?;

    switch(bed, Origin::Debian).await?;
    bed.ctr(Origin::Debian).pull(&reference).await?;
    let theirs = snapshots_on_disk(bed)?;
    ensure!(theirs.len() == 4, "{theirs:?}");
    let content = list(bed.api(), &[]).await?;
    proxy.take_seen();

    switch(bed, Origin::Ours).await?;
    for ctr in bed.image_clients() {
        ctr.pull(&reference).await?;
        ctr.run_image(&reference, "taken-over", "hello\n").await?;
        ctr.pull(&second).await?;
        ctr.run_image(&second, "second", "second\n").await?;
        let blobs: Vec<_> = proxy
            .take_seen()
            .into_iter()
            .filter(|seen| seen.method == "GET" && seen.path.contains("/blobs/"))
            .collect();
        ensure!(blobs.is_empty(), "fetched again: {blobs:?}");
        let mine = snapshots_on_disk(bed)?;
        for (name, files) in &theirs {
            let now = mine.iter().find(|(other, _)| other == name);
            ensure!(now.is_some_and(|(_, now)| now == files), "snapshot {name} has changed");
        }
        ctr.remove_images(&[&reference, &second]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    // What we no longer know, they still have.
    ensure!(snapshots_on_disk(bed)? == theirs, "their snapshots have changed");

    switch(bed, Origin::Debian).await?;
    let debian = bed.ctr(Origin::Debian);
    assert_eq!(list(bed.api(), &[]).await?, content);
    let manifest = get(bed.api(), &made.digest, 0, 0).await?;
    ensure!(manifest.contains("schemaVersion"), "{manifest}");
    debian.run_image(&reference, "back", "hello\n").await?;
    debian.remove_images(&[&reference]).await?;
    assert_eq!(Store::of(bed.api()).await?, Store::default());
    switch(bed, Origin::Ours).await
}

async fn switch(bed: &mut Bed, origin: Origin) -> Result<()> {
    bed.daemon.stop().await?;
    bed.daemon.switch_to(origin);
    bed.daemon.start(&bed.sandbox).await
}

/// The folders of overlayfs with all that is in them.
fn snapshots_on_disk(bed: &Bed) -> Result<Vec<(String, Vec<String>)>> {
    let folder = bed.daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Those with other names are on their way out.
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            found.push((name, files_below(&entry.path())?));
        }
    }
    found.sort();
    Ok(found)
}

fn files_below(folder: &Path) -> Result<Vec<String>> {
    let output =
        Command::new("find").arg(folder).args(["-printf", "%P %y %m %s %T@\\n"]).output()?;
    ensure!(output.status.success(), "find: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<_> =
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// Runs a program where the mounts of the test are.
fn inside(bed: &Bed, words: &[&str]) -> Result<String> {
    let (program, arguments) = bed.sandbox.command(Path::new(words[0]));
    let output = Command::new(program).args(arguments).args(&words[1..]).output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
