//! Snapshots through the client library, of the original daemon and of ours;
//! and what becomes of them when ours is killed.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use containerd_client::{
    Client, ErrorKind, Namespace, RootMount, SnapshotKind, Snapshots, SubscribeOptions,
};
use tests::{Bed, Spec, eventually, faults};

tests::every_daemon!(
    a_stack_is_built,
    what_is_wrong_is_refused,
    listings_and_labels,
    changes_are_announced,
    a_lease_keeps_a_snapshot,
    a_container_runs_on_127_layers,
);
tests::pairing!(our_shim, tests::Pairing::OUR_SHIM, a_container_runs_on_127_layers);
tests::pairing!(our_daemon, tests::Pairing::OUR_DAEMON, a_container_runs_on_127_layers);
tests::pairing!(only_ours, tests::Pairing::OURS, killed_at_each_step, plugins_tell_what_they_can);

async fn namespace(bed: &Bed) -> Result<Namespace> {
    Ok(Client::connect(bed.daemon.socket()).await?.namespace(bed.namespace()))
}

async fn snapshots(bed: &Bed) -> Result<Snapshots> {
    Ok(namespace(bed).await?.snapshots("overlayfs"))
}

/// Labels that keep a snapshot from being collected.
fn kept() -> BTreeMap<String, String> {
    BTreeMap::from([("containerd.io/gc.root".into(), "1".into())])
}

/// The folder that is written to.
fn upper(mounts: &[RootMount]) -> Result<&Path> {
    let mount = mounts.first().context("no mount")?;
    if mount.kind == "bind" {
        return Ok(Path::new(&mount.source));
    }
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    Ok(Path::new(upper.context("no upper folder")?))
}

async fn layer(snapshots: &Snapshots, name: &str, parent: &str) -> Result<()> {
    let mounts = snapshots.prepare("tmp", parent, kept()).await?;
    fs::write(upper(&mounts)?.join(name), name)?;
    Ok(snapshots.commit(name, "tmp", "", kept()).await?)
}

fn kind<T>(outcome: containerd_client::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

async fn remove_all(snapshots: &Snapshots, keys: &[&str]) -> Result<()> {
    for key in keys {
        snapshots.remove(key).await?;
    }
    Ok(())
}

async fn a_stack_is_built(bed: &mut Bed) -> Result<()> {
    let s = snapshots(bed).await?;
    layer(&s, "one", "").await?;
    layer(&s, "two", "one").await?;
    let active = s.prepare("active", "two", kept()).await?;
    assert_eq!(s.mounts("active").await?, active);
    assert_eq!(active[0].kind, "overlay");
    let view = s.view("view", "one", kept()).await?;
    assert_eq!((view[0].kind.as_str(), view[0].options.join(",").as_str()), ("bind", "ro,rbind"));
    ensure!(Path::new(&view[0].source).join("one").exists());
    for (key, expected, parent) in [
        ("one", SnapshotKind::Committed, ""),
        ("two", SnapshotKind::Committed, "one"),
        ("active", SnapshotKind::Active, "two"),
        ("view", SnapshotKind::View, "one"),
    ] {
        let info = s.stat(key).await?;
        assert_eq!((info.kind, info.parent.as_str()), (expected, parent), "{key}");
    }
    let usage = s.usage("two").await?;
    assert_eq!(usage.inodes, 2);
    ensure!(usage.size > 0, "{usage:?}");
    bed.crash().await?;
    let s = snapshots(bed).await?;
    assert_eq!(s.mounts("active").await?, active);
    assert_eq!(s.usage("two").await?, usage);
    match s.cleanup().await {
        // Debian's overlayfs cleans up by itself.
        Err(e) if e.kind() == ErrorKind::Unimplemented => {}
        done => done?,
    }
    remove_all(&s, &["active", "view", "two", "one"]).await
}

async fn what_is_wrong_is_refused(bed: &mut Bed) -> Result<()> {
    let s = snapshots(bed).await?;
    layer(&s, "base", "").await?;
    s.prepare("active", "base", kept()).await?;
    s.view("view", "base", kept()).await?;
    let none = BTreeMap::new;
    use ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    for (refused, expected) in [
        (kind(s.stat("none").await), NotFound),
        (kind(s.mounts("none").await), NotFound),
        (kind(s.usage("none").await), NotFound),
        (kind(s.remove("none").await), NotFound),
        (kind(s.prepare("new", "none", none()).await), NotFound),
        (kind(s.commit("new", "none", "", none()).await), NotFound),
        (kind(s.prepare("active", "base", none()).await), AlreadyExists),
        (kind(s.view("base", "", none()).await), AlreadyExists),
        (kind(s.commit("base", "active", "", none()).await), AlreadyExists),
        (kind(s.prepare("new", "active", none()).await), InvalidArgument),
        (kind(s.mounts("base").await), FailedPrecondition),
        (kind(s.commit("new", "view", "", none()).await), FailedPrecondition),
        (kind(s.commit("new", "base", "", none()).await), FailedPrecondition),
        (kind(s.remove("base").await), FailedPrecondition),
    ] {
        assert_eq!(refused, Some(expected));
    }
    let unknown = namespace(bed).await?.snapshots("none");
    assert_eq!(kind(unknown.stat("a").await), Some(InvalidArgument));
    assert_eq!(s.list(&[]).await?.len(), 3);
    remove_all(&s, &["active", "view", "base"]).await
}

async fn listings_and_labels(bed: &mut Bed) -> Result<()> {
    let s = snapshots(bed).await?;
    layer(&s, "base", "").await?;
    // More than one message of a listing has.
    for i in 0..120 {
        s.prepare(&format!("key {i:03}"), "base", kept()).await?;
    }
    assert_eq!(s.list(&[]).await?.len(), 121);
    let labels = BTreeMap::from([("colour".into(), "blue".into()), ("size".into(), "1".into())]);
    s.set_labels("key 007", labels).await?;
    let after = s.set_labels("key 007", BTreeMap::from([("size".into(), String::new())])).await?;
    assert_eq!(after.labels["colour"], "blue");
    ensure!(!after.labels.contains_key("size"), "{after:?}");
    let names = async |filter: &str| -> Result<Vec<String>> {
        let found = s.list(&[filter.to_owned()]).await?;
        Ok(found.into_iter().map(|info| info.name).collect())
    };
    assert_eq!(names("labels.colour==blue").await?, ["key 007"]);
    assert_eq!(names("kind==committed").await?, ["base"]);
    assert_eq!(names("parent==base").await?.len(), 120);
    for i in 0..120 {
        s.remove(&format!("key {i:03}")).await?;
    }
    remove_all(&s, &["base"]).await
}

async fn changes_are_announced(bed: &mut Bed) -> Result<()> {
    let mut events = namespace(bed).await?.client().subscribe(SubscribeOptions::default()).await?;
    let s = snapshots(bed).await?;
    layer(&s, "base", "").await?;
    s.view("view", "base", kept()).await?;
    remove_all(&s, &["view", "base"]).await?;
    let mut topics = Vec::new();
    while topics.last().map(String::as_str) != Some("/snapshot/remove") || topics.len() < 4 {
        let envelope = events.next().await?.context("the end of events")?;
        if envelope.topic.starts_with("/snapshot/") {
            topics.push(envelope.topic);
        }
    }
    let expected =
        ["prepare", "commit", "remove", "remove"].map(|name| format!("/snapshot/{name}"));
    assert_eq!(topics, expected);
    Ok(())
}

/// Without it, the collector takes the snapshot.
async fn a_lease_keeps_a_snapshot(bed: &mut Bed) -> Result<()> {
    let namespace = namespace(bed).await?;
    namespace.leases().create("lease", BTreeMap::new()).await?;
    let leased = namespace.with_lease("lease").snapshots("overlayfs");
    leased.prepare("a", "", BTreeMap::new()).await?;
    let held = namespace.leases().resources("lease").await?;
    assert_eq!((held[0].id.as_str(), held[0].kind.as_str()), ("a", "snapshots/overlayfs"));
    leased.commit("base", "a", "", BTreeMap::new()).await?;
    let held = namespace.leases().resources("lease").await?;
    assert_eq!(held.iter().map(|held| held.id.as_str()).collect::<Vec<_>>(), ["base"]);
    namespace.leases().delete("lease", true).await?;
    eventually(async || {
        let left = leased.list(&[]).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

/// With overlayfs, the mount data is longer than a page.
async fn a_container_runs_on_127_layers(bed: &mut Bed) -> Result<()> {
    let s = snapshots(bed).await?;
    let mounts = s.prepare("tmp", "", kept()).await?;
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", bed.sandbox.rootfs().display()))
        .arg(upper(&mounts)?)
        .status()?;
    ensure!(status.success(), "{status}");
    s.commit("layer 0", "tmp", "", kept()).await?;
    for i in 1..127 {
        layer(&s, &format!("layer {i}"), &format!("layer {}", i - 1)).await?;
    }
    let mounts = s.prepare("top", "layer 126", kept()).await?;
    let rootfs = mounts.into_iter().map(|mount| containerd_api::types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    });
    let cgroup = format!("{}/deep", bed.sandbox.cgroup());
    let script = "test -f '/layer 1' && test -f '/layer 126' && echo written > /file && exit 7";
    let spec = Spec::shell(script, "rootfs", &cgroup, &bed.runtime());
    let container = bed.container("deep", &spec).await?;
    let mut task = container.task(false, rootfs.collect(), bed.fifos("deep", false, true)?).await?;
    task.start().await?;
    assert_eq!(task.wait().await?.status, 7);
    bed.remove(&task).await?;
    let written = upper(&s.mounts("top").await?)?.join("file");
    assert_eq!(fs::read_to_string(written)?, "written\n");
    s.remove("top").await?;
    for i in (0..127).rev() {
        s.remove(&format!("layer {i}")).await?;
    }
    Ok(())
}

/// Wherever it dies, the same again succeeds, and nothing is left.
async fn killed_at_each_step(bed: &mut Bed) -> Result<()> {
    bed.daemon.stop().await?;
    bed.daemon.use_debug_build()?;
    let places: Vec<String> =
        faults::places()?.into_iter().filter(|place| place.starts_with("snapshots.")).collect();
    ensure!(places.len() >= 6, "{places:?}");
    for place in &places {
        bed.daemon.set_environment(&[(faults::VARIABLE, place.as_str())]);
        bed.daemon.start(&bed.sandbox).await?;
        let s = snapshots(bed).await?;
        // As far as it comes.
        let _ = build(&s).await;
        eventually(async || {
            ensure!(bed.daemon.ended()?.is_some(), "it lives beyond {place}");
            Ok(())
        })
        .await?;
        bed.daemon.set_environment(&[]);
        bed.daemon.start(&bed.sandbox).await?;
        let s = snapshots(bed).await?;
        for info in s.list(&[]).await? {
            ensure!(
                info.kind == SnapshotKind::Committed || !s.mounts(&info.name).await?.is_empty()
            );
        }
        for key in ["tmp", "active", "base"] {
            match s.remove(key).await {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        build(&s).await.with_context(|| format!("after {place}"))?;
        s.cleanup().await?;
        let folder = bed.daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
        eventually(async || {
            let left = fs::read_dir(&folder)?.count();
            ensure!(left == 0, "{left} folders are left after {place}");
            Ok(())
        })
        .await?;
        bed.daemon.stop().await?;
    }
    bed.daemon.start(&bed.sandbox).await
}

async fn build(s: &Snapshots) -> Result<()> {
    layer(s, "base", "").await?;
    s.prepare("active", "base", kept()).await?;
    remove_all(s, &["active", "base"]).await
}

async fn plugins_tell_what_they_can(bed: &mut Bed) -> Result<()> {
    let client = Client::connect(bed.daemon.socket()).await?;
    let plugins = client.plugins(&["type==io.containerd.snapshotter.v1".to_owned()]).await?;
    let overlay = plugins.iter().find(|plugin| plugin.id == "overlayfs").context("no overlays")?;
    assert_eq!(overlay.capabilities, ["remap-ids", "only-remap-ids", "rebase"]);
    let root = bed.daemon.root().join("io.containerd.snapshotter.v1.overlayfs");
    assert_eq!(overlay.exports["root"], root.display().to_string());
    ensure!(plugins.iter().any(|plugin| plugin.id == "native"));
    Ok(())
}
