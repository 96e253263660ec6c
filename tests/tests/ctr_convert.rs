//! `ctr images convert`, Debian's and ours, with either daemon.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Bed, Ctr, Origin, Store,
    content::{get, info},
    images::{Compression, Image, Layer, Layout, Tool, architecture, busybox, digest_of, media},
};

tests::every_daemon!(
    both_clients_make_the_same,
    the_wanted_platforms_stay,
    zstd_is_uncompressed_too,
    what_fails_leaves_nothing,
);

const SOURCE: &str = "example.com/source:1";
const TARGET: &str = "example.com/target:1";

/// Stores what a layout has under the tag `1` as [`SOURCE`].
async fn import(bed: &Bed, ctr: &Ctr<'_>, layout: &Layout, flags: &[&str]) -> Result<()> {
    let archive = layout.archive()?.display().to_string();
    let name = ["--base-name", "example.com/source"];
    ctr.ok(&[&["images", "import"], &name[..], flags, &[&archive]].concat()).await?;
    let images = Store::of(bed.api()).await?.images;
    ensure!(images.iter().any(|(name, _)| name == SOURCE), "{images:?}");
    Ok(())
}

/// Converts [`SOURCE`] to [`TARGET`]; answers its digest.
async fn convert(ctr: &Ctr<'_>, flags: &[&str]) -> Result<String> {
    let words = [&["images", "convert"], flags, &[SOURCE, TARGET]].concat();
    Ok(ctr.ok(&words).await?.trim().to_owned())
}

async fn document(bed: &Bed, digest: &str) -> Result<Value> {
    Ok(serde_json::from_str(&get(bed.api(), digest, 0, 0).await?)?)
}

/// Busybox and a layer on it, in Docker's media types.
fn docker_image() -> Result<Image> {
    let mut layer = Layer::new();
    layer.file("top", 0o644, b"top\n")?;
    Ok(busybox()?.layer(layer.finish()?).with("Cmd", json!(["/bin/cat", "/top"])).docker())
}

async fn both_clients_make_the_same(bed: &mut Bed) -> Result<()> {
    let skopeo = Tool::skopeo(&bed.sandbox);
    let image = docker_image()?;
    let (layout, made) = Layout::of(bed.sandbox.path("layout"), "1", &image)?;
    let diff_ids: Vec<_> = image.layers.iter().map(|(tar, _)| digest_of(tar)).collect();
    for flags in [&["--uncompress", "--oci"][..], &["--uncompress"], &["--oci"], &[]] {
        let mut digests = BTreeSet::new();
        for ctr in bed.image_clients() {
            import(bed, &ctr, &layout, &["--no-unpack"]).await?;
            ctr.ok(&["images", "label", SOURCE, "colour=blue"]).await?;
            let digest = convert(&ctr, flags).await?;
            ensure!((digest == made.digest) == flags.is_empty(), "{flags:?}: {digest}");
            // The name is taken, and the work is done.
            assert_eq!(convert(&ctr, flags).await?, digest, "{flags:?}");
            let labelled = ctr.ok(&["images", "ls", "-q", "labels.colour==blue"]).await?;
            assert_eq!(labelled.lines().count(), 2, "{labelled}");
            // What it needs stays without the image that it was made from.
            ctr.remove_images(&[SOURCE]).await?;
            let manifest = document(bed, &digest).await?;
            check(&manifest, flags, &diff_ids)?;
            ctr.run_image(TARGET, "converted", "top\n").await?;
            let exported = bed.sandbox.path("exported.tar").display().to_string();
            ctr.ok(&["images", "export", &exported, TARGET]).await?;
            ctr.remove_images(&[TARGET]).await?;
            assert_eq!(Store::of(bed.api()).await?, Store::default());
            let read = ["inspect", "--raw", &format!("oci-archive:{exported}")];
            assert_eq!(digest_of(skopeo.run(&read).await?.as_bytes()), digest, "{flags:?}");
            fs::remove_file(exported)?;
            digests.insert(digest);
        }
        assert_eq!(digests.len(), 1, "{flags:?}: {digests:?}");
    }
    Ok(())
}

/// Is a manifest what these flags should have made?
fn check(manifest: &Value, flags: &[&str], diff_ids: &[String]) -> Result<()> {
    let (uncompress, oci) = (flags.contains(&"--uncompress"), flags.contains(&"--oci"));
    let kind = if oci { media::MANIFEST } else { media::DOCKER_MANIFEST };
    assert_eq!(manifest["mediaType"], kind);
    let kind = if oci { media::CONFIG } else { media::DOCKER_CONFIG };
    assert_eq!(manifest["config"]["mediaType"], kind);
    let layers = manifest["layers"].as_array().context("no layers")?;
    assert_eq!(layers.len(), diff_ids.len());
    let kind = match (uncompress, oci) {
        (true, true) => media::LAYER.to_owned(),
        (true, false) => media::DOCKER_LAYER.trim_end_matches(".gzip").to_owned(),
        (false, true) => format!("{}+gzip", media::LAYER),
        (false, false) => media::DOCKER_LAYER.to_owned(),
    };
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        assert_eq!(layer["mediaType"], *kind);
        assert_eq!(layer["digest"] == **diff_id, uncompress);
    }
    Ok(())
}

async fn the_wanted_platforms_stay(bed: &mut Bed) -> Result<()> {
    let mut layout = Layout::new(bed.sandbox.path("layout"))?;
    let mine = layout.add(&busybox()?)?;
    let mut other = Layer::new();
    other.file("other", 0o644, b"other")?;
    let other = Image::new(&["/other"]).architecture("s390x").layer(other.finish()?);
    let other = layout.add(&other)?;
    let index = layout.add_index(&[other.clone(), mine.clone()])?;
    layout.tag("1", &index)?;
    for ctr in bed.image_clients() {
        import(bed, &ctr, &layout, &["--all-platforms", "--no-unpack"]).await?;
        for (flags, expected) in [
            (&["--uncompress"][..], &[architecture()][..]),
            (&["--uncompress", "--platform", "linux/s390x"], &["s390x"]),
            (&["--uncompress", "--all-platforms"], &["s390x", architecture()]),
        ] {
            let index = document(bed, &convert(&ctr, flags).await?).await?;
            let manifests = index["manifests"].as_array().context("no manifests")?;
            let found: Vec<_> =
                manifests.iter().map(|m| m["platform"]["architecture"].as_str()).collect();
            assert_eq!(found, expected.iter().map(|a| Some(*a)).collect::<Vec<_>>(), "{flags:?}");
            for manifest in manifests {
                let digest = manifest["digest"].as_str().context("no digest")?;
                assert_eq!(document(bed, digest).await?["layers"][0]["mediaType"], media::LAYER);
            }
        }
        // An image may become what it is made to.
        let words = ["images", "convert", "--oci", "--platform", "linux/s390x", SOURCE, SOURCE];
        let digest = ctr.ok(&words).await?;
        let images = Store::of(bed.api()).await?.images;
        ensure!(images.contains(&(SOURCE.into(), digest.trim().into())), "{images:?}");
        ctr.remove_images(&[SOURCE, TARGET]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
    }
    Ok(())
}

/// By ours: the original of that age leaves zstd as it is.
async fn zstd_is_uncompressed_too(bed: &mut Bed) -> Result<()> {
    let mut layer = Layer::new();
    layer.file("top", 0o644, b"top\n")?;
    let image = busybox()?.compressed(layer.finish()?, Compression::Zstd);
    let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &image)?;
    let ctr = bed.ctr(Origin::Ours);
    import(bed, &ctr, &layout, &[]).await?;
    let manifest = document(bed, &convert(&ctr, &["--uncompress"]).await?).await?;
    for (layer, (tar, _)) in
        manifest["layers"].as_array().context("no layers")?.iter().zip(&image.layers)
    {
        let digest = layer["digest"].as_str().context("no digest")?;
        assert_eq!((layer["mediaType"].as_str(), digest), (Some(media::LAYER), &*digest_of(tar)));
        let info = info(bed.api(), digest).await?;
        assert_eq!(info.labels["containerd.io/uncompressed"], digest);
    }
    // It is unpacked already: its layers are the same.
    ctr.run_image(TARGET, "converted", "hello\n").await?;
    ctr.remove_images(&[SOURCE, TARGET]).await?;
    assert_eq!(Store::of(bed.api()).await?, Store::default());
    Ok(())
}

async fn what_fails_leaves_nothing(bed: &mut Bed) -> Result<()> {
    let ctr = bed.ctr(Origin::Ours);
    // The second layer is not what the configuration says.
    let mut image = busybox()?;
    let mut layer = Layer::new();
    layer.file("top", 0o644, b"truth\n")?;
    image = image.layer(layer.finish()?);
    let layout = Layout::new(bed.sandbox.path("layout"))?;
    let good = layout.add(&image)?;
    let mut lies = Layer::new();
    lies.file("top", 0o644, b"lies\n")?;
    let lies = Compression::Gzip.compress(&lies.finish()?)?;
    let lies = layout.add_blob(&format!("{}+gzip", media::LAYER), &lies)?;
    let mut manifest: Value = serde_json::from_slice(&fs::read(layout.blob(&good.digest))?)?;
    manifest["layers"][1] = lies.json();
    let mut layout = layout;
    let lying = layout.add_blob(media::MANIFEST, &serde_json::to_vec(&manifest)?)?;
    layout.tag("1", &lying)?;
    import(bed, &ctr, &layout, &["--all-platforms", "--no-unpack"]).await?;
    ctr.ok(&["images", "tag", SOURCE, "example.com/other:1"]).await?;
    ctr.remove_images(&["example.com/other:1"]).await?;
    let before = Store::of(bed.api()).await?;
    for (flags, word) in [
        (&["--uncompress"][..], "unpacks to"),
        (&["--estargz"], "--estargz"),
        (&["--zstdchunked", "--oci"], "--zstdchunked"),
        (&["--nydus"], "--nydus"),
        (&["--overlaybd"], "--overlaybd"),
        (&["--soci"], "--soci"),
        (&["--erofs", "zstd"], "--erofs"),
        (&["--platform", "neverland"], "neverland"),
        (&["--all-platforms", "--platform", "linux/arm64"], "together"),
    ] {
        let words = [&["images", "convert"], flags, &[SOURCE, TARGET]].concat();
        let failed = ctr.run(&words).await?;
        ensure!(failed.code != Some(0) && failed.stderr.contains(word), "{flags:?}: {failed:?}");
        // What was made is garbage now, and collected at the latest here.
        ctr.ok(&["images", "tag", SOURCE, "example.com/other:1"]).await?;
        ctr.remove_images(&["example.com/other:1"]).await?;
        assert_eq!(Store::of(bed.api()).await?, before, "{flags:?}");
    }
    let words = ["images", "convert", "--oci", "example.com/none:1", TARGET];
    let unknown = ctr.run(&words).await?;
    ensure!(unknown.stderr.contains("not found"), "{unknown:?}");
    ctr.remove_images(&[SOURCE]).await?;
    assert_eq!(Store::of(bed.api()).await?, Store::default());
    Ok(())
}
