//! Registries and images that are wrong: each a clear error in a bounded time,
//! and nothing left of it.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use serde_json::json;
use tar::EntryType;
use tests::{
    Bed, Ctr, Origin, Output, Store, eventually,
    images::{Compression, Descriptor, Image, Layer, Layout, busybox, digest_of, media},
    registry::{Fault, Proxy, Registry, Rule},
};

tests::every_daemon!(wrong_bytes_are_refused, layers_stay_where_they_belong);
tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    registries_that_are_broken_are_given_up,
    images_that_make_no_sense_are_refused,
    what_passes_is_waited_for,
    archives_that_are_broken_are_refused,
);

/// Within this time the daemon gives up by itself, whatever it is. The longest
/// of its own deadlines is shorter.
const LIMIT: Duration = Duration::from_secs(240);

/// An image in a registry, seen through a proxy of its own.
struct Offer {
    name: &'static str,
    proxy: Proxy,
    reference: String,
    manifest: Descriptor,
    config: String,
    layer: String,
}

impl Offer {
    /// Offers an image that no other case has a part of.
    async fn new(bed: &Bed, registry: &Registry, name: &'static str) -> Result<Self> {
        let mut layer = Layer::new();
        let mut data = format!("{name}\n").into_bytes();
        // It does not compress.
        let mut seed = name.bytes().fold(7_u32, |sum, b| sum.wrapping_mul(31) ^ u32::from(b));
        data.extend((0..200_000).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        }));
        layer.file("data", 0o644, &data)?;
        let image = Image::new(&["/nothing"]).layer(layer.finish()?);
        let folder = bed.sandbox.path(&format!("layout-{name}"));
        let (layout, manifest) = Layout::of(folder, "1", &image)?;
        let parts = layout.parts(&manifest)?;
        layout.push(&bed.sandbox, "1", &registry.image(&format!("{name}:1"))).await?;
        let proxy = registry.proxy().await?;
        let reference = proxy.image(&format!("{name}:1"));
        let [config, layer] = [&parts[0], &parts[1]].map(|digest| format!("/blobs/{digest}"));
        Ok(Self { name, proxy, reference, manifest, config, layer })
    }

    fn rule(&self, path: &str, fault: Fault) {
        self.proxy.rule(Rule::always(path, fault));
    }
}

/// Pulls what cannot be pulled, and checks how it ends.
async fn refused(ctr: &Ctr<'_>, name: &str, reference: &str) -> Result<Output> {
    let output = pull(ctr, name, reference).await?;
    ensure!(output.code == Some(1), "{name}: {output:?}");
    let said = output.stderr.trim();
    println!("{name}: {}", said.lines().last().unwrap_or_default());
    ensure!(!said.is_empty() && !said.contains("panicked"), "{name}: {output:?}");
    Ok(output)
}

async fn pull(ctr: &Ctr<'_>, name: &str, reference: &str) -> Result<Output> {
    let words = ["images", "pull", "--plain-http", reference];
    ctr.run_for(LIMIT, &words, "").await.with_context(|| name.to_owned())
}

/// Whether it cleans up behind a failure: our client and our daemon do.
fn is_clean(bed: &Bed, ctr: &Ctr<'_>) -> bool {
    ctr.origin() == Origin::Ours && bed.daemon.pairing().daemon == Origin::Ours
}

/// Nothing is left. The daemon may still be about it when the client is gone.
async fn nothing_is_left(bed: &Bed) -> Result<()> {
    eventually(async || {
        let store = Store::of(bed.api()).await?;
        ensure!(store == Store::default(), "left behind: {store:?}");
        Ok(())
    })
    .await
}

/// By both clients; the original's leaves what it has begun to its next try.
async fn wrong_bytes_are_refused(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    for ctr in bed.image_clients() {
        let layer = Offer::new(bed, &registry, "wrong-layer").await?;
        layer.rule(&layer.layer, Fault::Wrong(1000));
        let config = Offer::new(bed, &registry, "wrong-config").await?;
        config.rule(&config.config, Fault::Wrong(30));
        let manifest = Offer::new(bed, &registry, "wrong-manifest").await?;
        manifest.rule("/manifests/", Fault::Wrong(30));
        let missing = Offer::new(bed, &registry, "missing-layer").await?;
        missing.rule(&missing.layer, Fault::status(404));
        for offer in [&layer, &config, &manifest, &missing] {
            refused(&ctr, offer.name, &offer.reference).await?;
            let store = Store::of(bed.api()).await?;
            let made = (store.images.len(), store.snapshots.len());
            assert_eq!(made, (0, 0), "{}: {store:?}", offer.name);
            if is_clean(bed, &ctr) {
                nothing_is_left(bed).await?;
            }
        }
        if bed.daemon.pairing().daemon == Origin::Debian {
            // It would go on with the wrong bytes for ever.
            continue;
        }
        // All is well with the same images elsewhere.
        for offer in [&layer, &config, &manifest, &missing] {
            let reference = registry.image(&format!("{}:1", offer.name));
            ctr.pull(&reference).await?;
            let store = Store::of(bed.api()).await?;
            ensure!(store.content.contains(&offer.manifest.digest), "{store:?}");
            ctr.remove_images(&[&reference]).await?;
        }
    }
    Ok(())
}

/// A registry, and what is wrong with it.
type Broken = (&'static str, fn(&Offer));

/// All at once, since each takes until a deadline of the daemon.
async fn registries_that_are_broken_are_given_up(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let ctr = bed.ctr(Origin::Ours);
    let broken: [Broken; 20] = [
        ("silent", |o| o.rule("", Fault::Silence)),
        ("silent-layer", |o| o.rule(&o.layer, Fault::Silence)),
        ("stalls", |o| o.rule(&o.layer, Fault::Stall(100_000))),
        ("stalls-manifest", |o| o.rule("/manifests/", Fault::Stall(10))),
        ("cut", |o| o.rule(&o.layer, Fault::Cut(0))),
        ("cut-manifest", |o| o.rule("/manifests/", Fault::Cut(10))),
        ("longer", |o| o.rule(&o.layer, Fault::Length(1000))),
        ("shorter", |o| o.rule(&o.layer, Fault::Length(-1000))),
        ("longer-manifest", |o| o.rule("/manifests/", Fault::Length(1000))),
        ("shorter-manifest", |o| o.rule("/manifests/", Fault::Length(-100))),
        ("circle", |o| o.rule("", Fault::redirect(&format!("http://{}", o.reference)))),
        ("circle-layer", |o| {
            let here = format!("http://{}/v2/circle-layer{}", o.proxy.address(), o.layer);
            o.rule(&o.layer, Fault::redirect(&here));
        }),
        ("nowhere", |o| o.rule(&o.layer, Fault::Status(307, String::new()))),
        ("huge-header", |o| o.rule("/manifests/", Fault::Header(4 << 20))),
        ("huge-manifest", |o| {
            o.rule("/manifests/", Fault::body(media::MANIFEST, vec![b' '; 10 << 20]));
        }),
        ("page", |o| o.rule("/manifests/", Fault::body("text/html", "<html>please pay</html>"))),
        ("forbidden", |o| o.rule("", Fault::status(403))),
        ("unauthorized", |o| o.rule("", Fault::status(401))),
        ("failing", |o| o.rule("", Fault::status(500))),
        ("busy", |o| o.rule(&o.layer, Fault::Status(429, "Retry-After: 86400\r\n".into()))),
    ];
    let attempts = broken.iter().map(async |(name, spoil)| {
        let offer = Offer::new(bed, &registry, name).await?;
        spoil(&offer);
        let begin = tokio::time::Instant::now();
        let outcome = refused(&ctr, name, &offer.reference).await.map(drop);
        println!("{name}: {} requests in {:?}", offer.proxy.seen().len(), begin.elapsed());
        // No end to them would be an attack.
        ensure!(offer.proxy.seen().len() <= 100, "{name}: {} requests", offer.proxy.seen().len());
        outcome
    });
    all_of(join_all(attempts).await)?;
    nothing_is_left(bed).await
}

/// All failures, not only the first.
fn all_of(outcomes: Vec<Result<()>>) -> Result<()> {
    let failed: Vec<_> =
        outcomes.into_iter().filter_map(|o| o.err().map(|error| format!("{error:#}"))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// The registry is well, but what it has is not.
async fn images_that_make_no_sense_are_refused(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let images = bad_images(bed)?;
    let ctr = bed.ctr(Origin::Ours);
    let attempts = images.iter().map(async |(name, layout, manifest)| {
        let target = serve(layout, manifest, &registry, name).await?;
        refused(&ctr, name, &target.image(&format!("{name}:1"))).await.map(drop)
    });
    all_of(join_all(attempts).await)?;
    nothing_is_left(bed).await
}

/// Serves a layout as it is: skopeo and the registry would refuse most of these.
async fn serve(
    layout: &Layout,
    top: &Descriptor,
    registry: &Registry,
    name: &str,
) -> Result<Proxy> {
    let proxy = registry.proxy().await?;
    let manifest = fs::read(layout.blob(&top.digest))?;
    let tag = format!("/v2/{name}/manifests/1");
    proxy.rule(Rule::always(&tag, Fault::body(&top.media_type, manifest)));
    for entry in fs::read_dir(layout.folder().join("blobs/sha256"))? {
        let entry = entry?;
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        let bytes = fs::read(entry.path())?;
        let kind = serde_json::from_slice(&bytes).ok();
        let kind =
            kind.and_then(|value: serde_json::Value| Some(value["mediaType"].as_str()?.to_owned()));
        let kind = kind.unwrap_or_else(|| "application/octet-stream".into());
        proxy.rule(Rule::always(&digest, Fault::body(&kind, bytes)));
    }
    Ok(proxy)
}

type Bad = (&'static str, Layout, Descriptor);

fn bad_images(bed: &Bed) -> Result<Vec<Bad>> {
    let tar = |name: &str| -> Result<Vec<u8>> {
        let mut layer = Layer::new();
        layer.file(name, 0o644, name.repeat(20_000).as_bytes())?;
        layer.finish()
    };
    let gzip = format!("{}+gzip", media::LAYER);
    let mut all: Vec<Bad> = Vec::new();
    // A manifest with these layers, of which the config says something else.
    let mut make = |name: &'static str, layers: &[(&str, &[u8])], diff_ids: &[String]| {
        let layout = Layout::new(bed.sandbox.path(&format!("bad-{name}")))?;
        let config = json!({
            "architecture": tests::images::architecture(), "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "made-for": name,
        });
        let config = layout.add_blob(media::CONFIG, &serde_json::to_vec(&config)?)?;
        let layers = layers.iter().map(|(kind, bytes)| Ok(layout.add_blob(kind, bytes)?.json()));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": config.json(), "layers": layers,
        });
        let manifest = layout.add_blob(media::MANIFEST, &serde_json::to_vec(&manifest)?)?;
        all.push((name, layout, manifest));
        anyhow::Ok(())
    };
    let whole = tar("whole")?;
    let compressed = Compression::Gzip.compress(&whole)?;
    let id = digest_of(&whole);
    let cut = &compressed[..compressed.len() / 2];
    make("cut-gzip", &[(&gzip, cut)], std::slice::from_ref(&id))?;
    make("no-gzip", &[(&gzip, b"this is no gzip at all")], std::slice::from_ref(&id))?;
    let cut_tar = Compression::Gzip.compress(&whole[..whole.len() / 2])?;
    let cut_id = digest_of(&whole[..whole.len() / 2]);
    make("cut-tar", &[(&gzip, &cut_tar)], &[cut_id])?;
    make("other-diff-id", &[(&gzip, &compressed)], &[digest_of(b"other")])?;
    make("no-diff-id", &[(&gzip, &compressed)], &[])?;
    make("too-many-diff-ids", &[(&gzip, &compressed)], &[id.clone(), id.clone()])?;
    make("strange-layer", &[("application/x-strange", &compressed)], std::slice::from_ref(&id))?;

    let layout = Layout::new(bed.sandbox.path("bad-sizes"))?;
    let layer = layout.add_blob(&gzip, &compressed)?;
    let config = layout.add_blob(media::CONFIG, b"{}")?;
    for (name, size) in [("size-too-large", layer.size + 1), ("size-too-small", 10)] {
        let mut lie = layer.clone();
        lie.size = size;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST, "config": config.json(),
            "layers": [lie.json()], "annotations": { "name": name },
        });
        let manifest = layout.add_blob(media::MANIFEST, &serde_json::to_vec(&manifest)?)?;
        let copy = Layout::new(bed.sandbox.path(&format!("bad-{name}")))?;
        for descriptor in [&layer, &config, &manifest] {
            fs::copy(layout.blob(&descriptor.digest), copy.blob(&descriptor.digest))?;
        }
        all.push((name, copy, manifest));
    }

    // Digests cannot be known before, so a chain of indexes is as near to a loop
    // as there is; one that names the same thing again and again is another.
    let layout = Layout::new(bed.sandbox.path("bad-deep"))?;
    let mut top = layout.add_index(&[])?;
    for _ in 0..300 {
        top = layout.add_index(&[top])?;
    }
    all.push(("deep", layout, top));
    let layout = Layout::new(bed.sandbox.path("bad-none"))?;
    let none = layout.add_index(&[])?;
    all.push(("empty-index", layout, none));
    let layout = Layout::new(bed.sandbox.path("bad-wrong-json"))?;
    let text = layout.add_blob(media::MANIFEST, b"{\"schemaVersion\":2,\"config\":[[[[[[")?;
    all.push(("wrong-json", layout, text));
    let layout = Layout::new(bed.sandbox.path("bad-types"))?;
    let text = br#"{"schemaVersion":2,"config":7,"layers":{"a":"b"},"manifests":[]}"#;
    let text = layout.add_blob(media::MANIFEST, text)?;
    all.push(("wrong-types", layout, text));
    let layout = Layout::new(bed.sandbox.path("bad-nested"))?;
    let text = layout.add_blob(media::INDEX, "[".repeat(1_000_000).as_bytes())?;
    all.push(("nested-json", layout, text));
    let layout = Layout::new(bed.sandbox.path("bad-digest"))?;
    let text = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:../../../../etc/passwd","size":9},"layers":[]}"#;
    let text = layout.add_blob(media::MANIFEST, text)?;
    all.push(("path-for-digest", layout, text));
    Ok(all)
}

/// Nothing is ever written outside of a snapshot: it is refused, or lands inside.
async fn layers_stay_where_they_belong(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let outside = bed.sandbox.path("outside");
    fs::create_dir(&outside)?;
    let target = outside.join("hit").display().to_string();
    let folder = outside.display().to_string();
    let up = "../".repeat(12);
    let mut layers: Vec<(&str, Layer)> = Vec::new();
    let mut add = |name, make: &dyn Fn(&mut Layer) -> Result<()>| {
        let mut layer = Layer::new();
        make(&mut layer)?;
        layers.push((name, layer));
        anyhow::Ok(())
    };
    let climbing = format!("{up}{}", target.trim_start_matches('/'));
    add("dots", &|l| l.raw(&climbing, EntryType::Regular, "", b"x").map(drop))?;
    add("absolute", &|l| l.raw(&target, EntryType::Regular, "", b"x").map(drop))?;
    add("through-a-link", &|l| {
        l.symlink("way", &folder)?;
        l.raw("way/hit", EntryType::Regular, "", b"x").map(drop)
    })?;
    add("through-two-links", &|l| {
        l.symlink("first", "..")?;
        l.symlink("second", &format!("first/{up}{}", folder.trim_start_matches('/')))?;
        l.raw("second/hit", EntryType::Regular, "", b"x").map(drop)
    })?;
    add("link-to-outside", &|l| {
        l.raw("linked", EntryType::Link, &climbing, b"")?;
        l.raw("linked", EntryType::Regular, "", b"x").map(drop)
    })?;
    add("folder-through-link", &|l| {
        l.symlink("way", &folder)?;
        l.raw("way/hit/", EntryType::Directory, "", b"").map(drop)
    })?;
    add("whiteout-through-link", &|l| {
        l.symlink("way", &folder)?;
        l.raw("way/.wh.precious", EntryType::Regular, "", b"").map(drop)
    })?;
    add("whiteout-of-everything", &|l| l.raw(".wh...", EntryType::Regular, "", b"").map(drop))?;
    fs::write(outside.join("precious"), "precious")?;
    let mut references = Vec::new();
    for (name, layer) in layers {
        // On a layer that has busybox, so that there is something below it.
        let image = busybox()?.layer(layer.finish()?);
        let (layout, _) = Layout::of(bed.sandbox.path(name), "1", &image)?;
        let reference = registry.image(&format!("{name}:1"));
        layout.push(&bed.sandbox, "1", &reference).await?;
        references.push((name, reference));
    }
    for ctr in bed.image_clients() {
        for (name, reference) in &references {
            let output = pull(&ctr, name, reference).await?;
            println!("{name}: {:?} {}", output.code, output.stderr.trim());
            let there: Vec<_> =
                fs::read_dir(&outside)?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
            assert_eq!(there, ["precious"], "{name}");
            assert_eq!(fs::read_to_string(outside.join("precious"))?, "precious", "{name}");
            // The original client names an image before it is unpacked.
            let images = Store::of(bed.api()).await?.images;
            if images.iter().any(|(name, _)| name == reference) {
                ctr.remove_images(&[reference]).await?;
            }
        }
        if is_clean(bed, &ctr) {
            nothing_is_left(bed).await?;
        }
    }
    Ok(())
}

/// What a second attempt mends is no error, and goes on where the first ended.
async fn what_passes_is_waited_for(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let ctr = bed.ctr(Origin::Ours);
    let broken: [Broken; 6] = [
        ("cut-once", |o| o.proxy.rule(Rule::new(&o.layer, 1, Fault::Cut(120_000)))),
        ("cut-thrice", |o| o.proxy.rule(Rule::new(&o.layer, 3, Fault::Cut(50_000)))),
        ("cut-manifest-once", |o| o.proxy.rule(Rule::new("/manifests/", 1, Fault::Cut(5)))),
        ("wrong-once", |o| o.proxy.rule(Rule::new(&o.layer, 1, Fault::status(503)))),
        ("busy-twice", |o| {
            let fault = Fault::Status(429, "Retry-After: 1\r\n".into());
            o.proxy.rule(Rule::new(&o.layer, 2, fault));
        }),
        ("failing-twice", |o| o.proxy.rule(Rule::new("", 2, Fault::status(502)))),
    ];
    let attempts = broken.iter().map(async |(name, spoil)| {
        let offer = Offer::new(bed, &registry, name).await?;
        spoil(&offer);
        let output = pull(&ctr, name, &offer.reference).await?;
        ensure!(output.code == Some(0), "{name}: {output:?}");
        let ranges: Vec<_> = offer.proxy.seen().into_iter().filter_map(|s| s.range).collect();
        println!("{name}: {ranges:?}");
        if name.starts_with("cut-once") {
            ensure!(ranges.iter().any(|r| r.starts_with("bytes=120000-")), "{name}: {ranges:?}");
        }
        ctr.remove_images(&[&offer.reference]).await
    });
    all_of(join_all(attempts).await)?;
    nothing_is_left(bed).await
}

async fn archives_that_are_broken_are_refused(bed: &mut Bed) -> Result<()> {
    let (layout, manifest) = Layout::of(bed.sandbox.path("layout"), "1", &busybox()?)?;
    let whole = fs::read(layout.archive()?)?;
    let parts = layout.parts(&manifest)?;
    let ctr = bed.ctr(Origin::Ours);
    let refused = async |name: &str, bytes: &[u8]| {
        let path = bed.sandbox.path(&format!("{name}.tar"));
        fs::write(&path, bytes)?;
        let path = path.display().to_string();
        let output = ctr.run(&["images", "import", "--base-name", "a.b/c", &path]).await?;
        println!("{name}: {}", output.stderr.trim());
        ensure!(output.code == Some(1) && !output.stderr.is_empty(), "{name}: {output:?}");
        nothing_is_left(bed).await.with_context(|| name.to_owned())
    };
    refused("empty", b"").await?;
    refused("noise", &[7; 5000]).await?;
    refused("cut", &whole[..whole.len() / 2]).await?;
    let mut wrong = whole.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    refused("wrong", &wrong).await?;
    // A part of this platform that is missing.
    fs::remove_file(layout.blob(&parts[1]))?;
    refused("without-layer", &fs::read(layout.archive()?)?).await?;
    fs::write(layout.folder().join("index.json"), "{")?;
    refused("wrong-index", &fs::read(layout.archive()?)?).await?;
    fs::remove_file(layout.folder().join("index.json"))?;
    refused("without-index", &fs::read(layout.archive()?)?).await
}
