//! Images when the daemon dies, at each place at which it can be told to, and
//! when the disk is full: nothing wrong is ever there, and the same again
//! succeeds.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::services::{
    content::v1::AbortRequest,
    leases::v1::DeleteRequest,
    snapshots::v1::{CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest},
};
use serde_json::json;
use tests::{
    Bed, Origin, Store, bin_dir, code,
    content::{Write, data, delete, get, list, put, stat},
    eventually, faults,
    images::{Image, Layer, Layout, busybox, digest_of, layered, many_layers},
    registry::{Proxy, Registry},
};
use tonic::Code;

tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    a_death_does_no_harm_1,
    a_death_does_no_harm_2,
    a_full_disk_ends_a_pull_only,
    a_full_disk_ends_an_unpack_only,
);

/// How many of the tests share the places among them.
const SHARES: usize = 2;

/// Places that come by again and again: it dies the first time, and in the midst
/// of its work.
const TIMES: [usize; 2] = [1, 4];

/// One half of the places.
async fn a_death_does_no_harm_1(bed: &mut Bed) -> Result<()> {
    die_everywhere(bed, 0).await
}

/// The other half.
async fn a_death_does_no_harm_2(bed: &mut Bed) -> Result<()> {
    die_everywhere(bed, 1).await
}

async fn die_everywhere(bed: &mut Bed, share: usize) -> Result<()> {
    let mut all = faults::places()?;
    // Those of the comparison are in diff.rs, those of checkpoints in
    // checkpoint_faults.rs.
    let elsewhere = ["diff.create.", "tasks.checkpoint."];
    all.retain(|place| !elsewhere.iter().any(|group| place.starts_with(group)));
    let mut failures = Vec::new();
    let work = Work::new(bed).await?;
    bed.daemon.use_debug_build()?;
    for place in all.iter().skip(share).step_by(SHARES) {
        for times in TIMES {
            println!("{place}:{times}");
            if let Err(error) = die(bed, &work, place, times).await {
                failures.push(format!("{place}:{times}: {error:#}"));
                // What it left is not to be held against the next one.
                start_anew(bed).await?;
            }
        }
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Everything that is done to images, with what it needs.
struct Work {
    registry: Proxy,
    pulled: String,
    archive: String,
    _registry: Registry,
}

/// The image that the archive has.
const IMPORTED: &str = "example.com/imported:1";

/// Says `whole` if all of its layers are there.
const CHECK: &str = "[ $(cat /top) = 3 ] && [ $(ls /layers | wc -l) = 3 ] && echo whole";

impl Work {
    async fn new(bed: &Bed) -> Result<Self> {
        let registry = Registry::start()?;
        let image = many_layers(3)?.with("Cmd", json!(["/bin/sh", "-c", CHECK]));
        let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &image)?;
        layout.push(&bed.sandbox, "1", &registry.image("image:1")).await?;
        let mut layer = Layer::new();
        layer.file("imported", 0o644, b"imported\n")?;
        let image = busybox()?.layer(layer.finish()?);
        let (layout, _) = Layout::of(bed.sandbox.path("archive"), "1", &image)?;
        let archive = layout.archive()?.display().to_string();
        let proxy = registry.proxy().await?;
        Ok(Self { pulled: proxy.image("image:1"), registry: proxy, archive, _registry: registry })
    }

    /// Does all of it. The same can be done again after a part of it was done.
    async fn run(&self, bed: &mut Bed) -> Result<()> {
        let ctr = bed.ctr(Origin::Ours);
        ctr.pull(&self.pulled).await?;
        let import = ["images", "import", "--base-name", "example.com/imported", &self.archive];
        ctr.ok(&import).await?;
        ctr.ok(&["images", "tag", "--force", IMPORTED, "example.com/tagged:1"]).await?;
        content(bed).await?;
        snapshots(bed).await?;
        // What nothing refers to is collected.
        ctr.remove_images(&[&self.pulled, IMPORTED, "example.com/tagged:1"]).await?;
        // And once more what a start does.
        leave_something_behind(bed).await?;
        bed.crash().await?;
        Ok(())
    }
}

async fn content(bed: &Bed) -> Result<()> {
    let api = bed.api();
    match put(api, "written", "hello").await {
        Err(status) if status.code() != Code::AlreadyExists => bail!(status),
        _ => {}
    }
    let (mut write, answer) = Write::open(api, stat("given-up")).await?;
    write.send(data(answer.offset, "hel")).await?;
    drop(write);
    eventually(async || {
        match api.content().abort(AbortRequest { r#ref: "given-up".into() }).await {
            // The daemon hears of the end of a stream a moment later.
            Err(status) if status.code() == Code::Unavailable => bail!(status),
            _ => Ok(()),
        }
    })
    .await?;
    Ok(delete(api, &digest_of(b"hello")).await?)
}

async fn snapshots(bed: &Bed) -> Result<()> {
    let api = bed.api();
    let snapshotter = || "overlayfs".to_owned();
    let remove = async |key: &str| {
        let request = RemoveSnapshotRequest { snapshotter: snapshotter(), key: key.into() };
        match api.snapshots().remove(request).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    };
    remove("active").await?;
    remove("committed").await?;
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter(),
        key: "active".into(),
        ..Default::default()
    };
    api.snapshots().prepare(prepare).await?;
    let commit = CommitSnapshotRequest {
        snapshotter: snapshotter(),
        key: "active".into(),
        name: "committed".into(),
        ..Default::default()
    };
    api.snapshots().commit(commit).await?;
    remove("committed").await?;
    Ok(())
}

/// What the next start finds, and takes away.
async fn leave_something_behind(bed: &Bed) -> Result<()> {
    let store = bed.daemon.root().join("io.containerd.content.v1.content");
    let stray = b"nobody knows this";
    let digest = digest_of(stray);
    fs::write(store.join("blobs/sha256").join(digest.trim_start_matches("sha256:")), stray)?;
    let broken = store.join("ingest").join(digest.trim_start_matches("sha256:"));
    fs::create_dir_all(&broken)?;
    fs::write(broken.join("ref"), "half")?;
    let snapshots = bed.daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    fs::create_dir_all(snapshots.join("999999/fs"))?;
    fs::create_dir_all(snapshots.join("new-1234567"))?;
    Ok(())
}

/// Lets the daemon die at a place, and looks at what is there then.
async fn die(bed: &mut Bed, work: &Work, place: &str, times: usize) -> Result<()> {
    bed.daemon.stop().await?;
    let fault = format!("{place}:{times}");
    bed.daemon.set_environment(&[(faults::VARIABLE, &fault)]);
    let outcome = match bed.daemon.start(&bed.sandbox).await {
        Ok(()) => work.run(bed).await,
        died => died,
    };
    let died = match bed.daemon.pid() {
        None => true,
        Some(_) => ended_soon(bed, outcome.is_err()).await?,
    };
    bed.daemon.set_environment(&[]);
    if !died {
        outcome.context("the daemon lives, but it did not work")?;
        ensure!(times > 1, "no work comes by here");
        return Ok(());
    }
    bed.daemon.start(&bed.sandbox).await.context("start after the death")?;
    everything_is_right(bed).await.context("after the death")?;

    // The same again succeeds, and what had come need not come again.
    let there: BTreeSet<String> =
        list(bed.api(), &[]).await?.into_iter().map(|found| found.0).collect();
    work.registry.take_seen();
    let ctr = bed.ctr(Origin::Ours);
    ctr.pull(&work.pulled).await.context("pull again")?;
    for seen in work.registry.take_seen() {
        let again = there.iter().any(|digest| seen.path.ends_with(&format!("/blobs/{digest}")));
        ensure!(seen.method != "GET" || !again, "fetched again: {}", seen.path);
    }
    ctr.run_image(&work.pulled, "check", "whole\n").await?;
    work.run(bed).await.context("the same again")?;
    everything_is_right(bed).await.context("at the end")?;
    nothing_is_left(bed).await
}

/// Whether the daemon has ended; that of an attempt that failed is about to.
async fn ended_soon(bed: &mut Bed, failed: bool) -> Result<bool> {
    if !failed {
        return Ok(bed.daemon.ended()?.is_some());
    }
    for _ in 0..200 {
        if bed.daemon.ended()?.is_some() {
            return Ok(true);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(false)
}

/// No bytes that are not what their name says, no record without its bytes, and
/// nothing that the program for this finds.
async fn everything_is_right(bed: &mut Bed) -> Result<()> {
    for (digest, size, _) in list(bed.api(), &[]).await? {
        let bytes = fs::read(tests::content::blob_of(&bed.daemon, &digest))
            .with_context(|| format!("{digest} is listed, but not there"))?;
        ensure!(bytes.len() as i64 == size, "{digest} has {} bytes, not {size}", bytes.len());
        if size < 1 << 16 {
            get(bed.api(), &digest, 0, 0).await?;
        }
    }
    for blob in entries(&blobs(bed))? {
        let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(digest_of(&fs::read(&blob)?) == format!("sha256:{name}"), "wrong bytes in {name}");
    }
    // Offline: it opens the database itself.
    bed.daemon.stop().await?;
    let mut check = Command::new(bin_dir().join("containerd"));
    let output = check.arg("check").arg("--config").arg(bed.daemon.config()).output()?;
    ensure!(
        output.status.success(),
        "containerd check: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    bed.daemon.start(&bed.sandbox).await
}

/// Neither in the records nor on disk.
async fn nothing_is_left(bed: &mut Bed) -> Result<()> {
    // A pull that died has a lease that would end by itself in a day.
    for lease in Store::of(bed.api()).await?.leases {
        bed.api().leases().delete(DeleteRequest { id: lease, sync: true }).await?;
    }
    for reference in Store::of(bed.api()).await?.ingests {
        bed.api().content().abort(AbortRequest { r#ref: reference }).await?;
    }
    bed.crash().await?;
    let store = Store::of(bed.api()).await?;
    ensure!(store == Store::default(), "left behind: {store:?}");
    let root = bed.daemon.root();
    for folder in [
        blobs(bed),
        root.join("io.containerd.content.v1.content/ingest"),
        root.join("io.containerd.snapshotter.v1.overlayfs/snapshots"),
    ] {
        let found = entries(&folder)?;
        ensure!(found.is_empty(), "left behind: {found:?}");
    }
    Ok(())
}

fn blobs(bed: &Bed) -> PathBuf {
    bed.daemon.root().join("io.containerd.content.v1.content/blobs/sha256")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let found = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    found.map(|entry| Ok(entry?.path())).collect()
}

async fn start_anew(bed: &mut Bed) -> Result<()> {
    if bed.daemon.ended()?.is_none() && bed.daemon.pid().is_some() {
        bed.daemon.kill().await?;
    }
    bed.daemon.set_environment(&[]);
    for folder in [bed.daemon.root(), bed.daemon.state()] {
        for mount in bed.sandbox.mounts_below(folder).iter().rev() {
            let (program, words) = bed.sandbox.command(Path::new("/bin/umount"));
            Command::new(program).args(words).arg("--lazy").arg(mount).status()?;
        }
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    bed.daemon.start(&bed.sandbox).await
}

/// Bytes that do not fit.
async fn a_full_disk_ends_a_pull_only(bed: &mut Bed) -> Result<()> {
    fill(bed, layered(2, 20 << 20)?).await
}

/// They fit as long as they are compressed.
async fn a_full_disk_ends_an_unpack_only(bed: &mut Bed) -> Result<()> {
    let mut layer = Layer::new();
    layer.file("large", 0o644, &b"0123456789abcdef".repeat(4 << 20))?;
    fill(bed, busybox()?.layer(layer.finish()?)).await
}

async fn fill(bed: &mut Bed, image: Image) -> Result<()> {
    const DISK_BYTES: usize = 32 << 20;
    let registry = Registry::start()?;
    let (large, small) = (registry.image("large:1"), registry.image("small:1"));
    let (layout, _) = Layout::of(bed.sandbox.path("large"), "1", &image)?;
    layout.push(&bed.sandbox, "1", &large).await?;
    let (layout, _) = Layout::of(bed.sandbox.path("small"), "1", &many_layers(2)?)?;
    layout.push(&bed.sandbox, "1", &small).await?;

    bed.daemon.stop().await?;
    bed.sandbox.mount_tmpfs(bed.daemon.root(), DISK_BYTES)?;
    bed.daemon.start(&bed.sandbox).await?;
    for ctr in bed.image_clients() {
        let output = ctr.run(&["images", "pull", "--plain-http", &large]).await?;
        let said = output.stderr.to_lowercase();
        ensure!(output.code == Some(1), "{output:?}");
        ensure!(said.contains("no space") || said.contains("exhausted"), "{output:?}");
        // Who pulls on its own side names what it has fetched before it unpacks.
        if !Store::of(bed.api()).await?.images.is_empty() {
            ctr.remove_images(&[&large]).await?;
        }
        if ctr.origin() == Origin::Debian {
            // It leaves what it has written, for another attempt.
            for lease in Store::of(bed.api()).await?.leases {
                bed.api().leases().delete(DeleteRequest { id: lease, sync: true }).await?;
            }
            for reference in Store::of(bed.api()).await?.ingests {
                let _ = code(bed.api().content().abort(AbortRequest { r#ref: reference }).await);
            }
            collect(bed).await?;
        }
        // There is room for it now, so it was given back.
        ctr.pull(&small).await?;
        ctr.run_image(&small, "small", "hello\n").await?;
        ctr.remove_images(&[&small]).await?;
        eventually(async || {
            let store = Store::of(bed.api()).await?;
            ensure!(store == Store::default(), "left behind: {store:?}");
            Ok(())
        })
        .await?;
    }
    bed.crash().await
}

/// Collects garbage now: that is what the end of a lease does.
async fn collect(bed: &Bed) -> Result<()> {
    use containerd_api::services::leases::v1::CreateRequest;
    let lease = CreateRequest { id: "collect".into(), ..Default::default() };
    bed.api().leases().create(lease).await?;
    bed.api().leases().delete(DeleteRequest { id: "collect".into(), sync: true }).await?;
    Ok(())
}
