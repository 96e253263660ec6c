//! Layers through the diff service: unpacked, and made of what two filesystems
//! differ by, by our daemon and by the original alike.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context, Result, ensure};
use containerd_api::services::diff::v1::{ApplyRequest, DiffRequest};
use tests::{
    Bed, Origin, code,
    content::{delete, info, list, statuses},
    layers::{
        self, Scene, apply, bind, compress, descriptor, diff, folder, overlay, put_bytes, read,
    },
};
use tonic::Code;

tests::every_daemon!(
    a_layer_is_unpacked,
    a_layer_is_made,
    requests_that_make_no_sense,
    hostile_layers_stay_inside,
);
tests::pairing!(
    only_ours,
    tests::Pairing::OURS,
    both_unpack_the_same_tree,
    each_unpacks_what_the_other_made,
    a_full_disk_is_told,
    a_crash_leaves_nothing_in_the_way,
    who_goes_away_ends_it,
);

/// The layer that all of these begin with.
fn sample(bed: &Bed) -> Result<Vec<u8>> {
    let root = folder(bed, "sample")?;
    fs::create_dir_all(root.join("etc/deep"))?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::hard_link(root.join("etc/hosts"), root.join("etc/deep/hard"))?;
    symlink("../hosts", root.join("etc/deep/soft"))?;
    fs::write(root.join("large"), "0123456789abcdef".repeat(100_000))?;
    std::os::unix::fs::chown(root.join("large"), Some(1000), Some(2_000_000))?;
    layers::age(&root)?;
    layers::tar(&root)
}

async fn a_layer_is_unpacked(bed: &mut Bed) -> Result<()> {
    let archive = sample(bed)?;
    let expected = Scene::read(&bed.sandbox.path("sample"))?;
    let plain = put_bytes(bed.api(), "plain", &archive).await?;
    for (kind, suffix) in [("gzip", "+gzip"), ("zstd", "+zstd"), ("plain", "")] {
        let layer = compress(&archive, kind)?;
        let digest = put_bytes(bed.api(), kind, &layer).await.or_else(|status| match kind {
            "plain" if status.code() == Code::AlreadyExists => Ok(plain.clone()),
            _ => Err(status),
        })?;
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        for (place, mounts) in [
            ("bind", vec![bind(&folder(bed, &format!("bind-{kind}"))?)]),
            ("overlay", vec![overlay(bed, &format!("overlay-{kind}"), &[&folder(bed, "below")?])?]),
        ] {
            let layer = descriptor(&media_type, &digest, layer.len());
            let applied = apply(bed.api(), layer, mounts).await?;
            assert_eq!(applied.media_type, "application/vnd.oci.image.layer.v1.tar");
            assert_eq!(applied.digest, plain);
            assert_eq!(applied.size, i64::try_from(archive.len())?);
            let upper = match place {
                "bind" => bed.sandbox.path(&format!("bind-{kind}")),
                _ => bed.sandbox.path(&format!("overlay-{kind}/fs")),
            };
            expected.must_be(&Scene::read(&upper)?)?;
        }
    }
    // Docker's types do not tell, or tell something else.
    let gzip = put_bytes(bed.api(), "again", &compress(&archive, "gzip")?).await;
    ensure!(gzip.is_err_and(|status| status.code() == Code::AlreadyExists), "it is there");
    let zstd = layers::digest(&compress(&archive, "zstd")?);
    for media_type in [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ] {
        let target = folder(bed, &media_type[media_type.len() - 8..].replace('.', "-"))?;
        let layer = descriptor(media_type, &zstd, compress(&archive, "zstd")?.len());
        assert_eq!(apply(bed.api(), layer, vec![bind(&target)]).await?.digest, plain);
        expected.must_be(&Scene::read(&target)?)?;
    }
    Ok(())
}

async fn a_layer_is_made(bed: &mut Bed) -> Result<()> {
    let (old, new) = (folder(bed, "old")?, folder(bed, "new")?);
    for name in ["gone", "same", "other"] {
        fs::write(old.join(name), name)?;
    }
    layers::copy(&old.join("same"), &new.join("same"))?;
    fs::write(new.join("other"), "not the same")?;
    fs::create_dir(new.join("folder"))?;
    fs::write(new.join("folder/f"), "f")?;
    let request = DiffRequest {
        left: vec![bind(&old)],
        right: vec![bind(&new)],
        r#ref: "layer".into(),
        labels: [("kind".to_owned(), "test".to_owned())].into(),
        ..Default::default()
    };
    let made = diff(bed.api(), request.clone()).await?;
    assert_eq!(made.media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
    let found = info(bed.api(), &made.digest).await?;
    assert_eq!(found.size, made.size);
    assert_eq!(found.labels.get("kind").map(String::as_str), Some("test"));
    let diff_id = found.labels.get("containerd.io/uncompressed").context("no label")?.clone();
    assert_eq!(statuses(bed.api()).await?, []);

    let layer = layers::decompress(&read(bed.api(), &made.digest).await?)?;
    assert_eq!(layers::digest(&layer), diff_id);
    assert_eq!(layers::names(&layer)?, ["folder/", "folder/f", ".wh.gone", "other"]);
    // The same again is the same; but the original's whiteouts have the time of
    // the request, in seconds.
    let is_reproducible = bed.daemon.pairing().daemon == Origin::Ours;
    let again = diff(bed.api(), DiffRequest { r#ref: String::new(), ..request.clone() }).await?;
    assert!(again.digest == made.digest || !is_reproducible, "{again:?}, {made:?}");
    assert_eq!(statuses(bed.api()).await?, []);
    delete(bed.api(), &made.digest).await?;

    let plain = DiffRequest {
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        ..request.clone()
    };
    let plain = diff(bed.api(), plain).await?;
    assert!(plain.digest == diff_id || !is_reproducible, "{plain:?}, {diff_id}");
    let plain_layer = read(bed.api(), &plain.digest).await?;
    assert_eq!(layers::names(&plain_layer)?, layers::names(&layer)?);
    apply(bed.api(), plain, vec![bind(&old)]).await?;
    Scene::read(&new)?.must_be(&Scene::read(&old)?)?;
    Ok(())
}

async fn requests_that_make_no_sense(bed: &mut Bed) -> Result<()> {
    let target = folder(bed, "target")?;
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let missing = layers::digest(b"nothing");
    let outcome = apply(bed.api(), descriptor(plain, &missing, 7), vec![bind(&target)]).await;
    assert_eq!(code(outcome)?.0, Code::NotFound);
    let media_type = "application/vnd.oci.image.layer.v1.tar+lzma";
    let request = DiffRequest {
        left: vec![bind(&target)],
        right: vec![bind(&target)],
        media_type: media_type.into(),
        ..Default::default()
    };
    assert_eq!(code(diff(bed.api(), request).await)?.0, Code::Unimplemented);
    let nowhere = bed.api().without_namespace();
    let outcome = apply(&nowhere, descriptor(plain, &missing, 7), vec![bind(&target)]).await;
    assert_eq!(code(outcome)?.0, Code::FailedPrecondition);
    if bed.daemon.pairing().daemon == Origin::Debian {
        return Ok(());
    }
    let archive = put_bytes(bed.api(), "a", &[0; 1024]).await?;
    for (layer, mounts, expected) in [
        (descriptor("text/plain", &archive, 1024), vec![bind(&target)], Code::Unimplemented),
        (
            descriptor(&format!("{plain}+encrypted"), &archive, 1024),
            vec![bind(&target)],
            Code::Unimplemented,
        ),
        (descriptor(plain, "sha256:x", 1024), vec![bind(&target)], Code::InvalidArgument),
        (descriptor(plain, &archive, 1000), vec![bind(&target)], Code::InvalidArgument),
        (descriptor(plain, &archive, 1024), vec![], Code::InvalidArgument),
        (
            descriptor(plain, &archive, 1024),
            vec![bind(Path::new("relative"))],
            Code::InvalidArgument,
        ),
        (
            descriptor(plain, &archive, 1024),
            vec![bind(&target.join("no"))],
            Code::FailedPrecondition,
        ),
    ] {
        assert_eq!(code(apply(bed.api(), layer, mounts).await)?.0, expected);
    }
    let empty = ApplyRequest { mounts: vec![bind(&target)], ..Default::default() };
    assert_eq!(code(bed.api().diff().apply(empty).await)?.0, Code::InvalidArgument);
    assert_eq!(code(diff(bed.api(), DiffRequest::default()).await)?.0, Code::InvalidArgument);
    assert_eq!(statuses(bed.api()).await?, []);
    Ok(())
}

async fn hostile_layers_stay_inside(bed: &mut Bed) -> Result<()> {
    let outside = folder(bed, "outside")?;
    fs::write(outside.join("kept"), "kept")?;
    let before = Scene::read(&outside)?;
    let name = outside.display().to_string();
    let mut number = 0;
    for archive in layers::hostile(&name)? {
        number += 1;
        let digest = put_bytes(bed.api(), &format!("hostile{number}"), &archive).await?;
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &digest, archive.len());
        let targets = [
            bind(&folder(bed, &format!("hostile-bind{number}"))?),
            overlay(bed, &format!("hostile-overlay{number}"), &[&folder(bed, "below")?])?,
        ];
        for mount in targets {
            // Refused or contained: it depends.
            let _ = apply(bed.api(), layer.clone(), vec![mount]).await;
            before.must_be(&Scene::read(&outside)?)?;
        }
    }
    Ok(())
}

/// Ours and the original, one after the other, in the same store.
async fn both_unpack_the_same_tree(bed: &mut Bed) -> Result<()> {
    let root = folder(bed, "tree")?;
    layers::fill(&root, 400)?;
    let below = folder(bed, "below")?;
    for name in ["a/b", "n3", "n5", "opaque"] {
        fs::create_dir_all(below.join(name))?;
        fs::write(below.join(name).join("old"), "old")?;
    }
    fs::set_permissions(below.join("a/b"), std::os::unix::fs::PermissionsExt::from_mode(0o2711))?;
    let archives = [layers::tar(&root)?, layers::whiteouts()?];
    let mut scenes = Vec::new();
    for origin in [Origin::Debian, Origin::Ours] {
        bed.daemon.stop().await?;
        bed.daemon.switch_to(origin);
        bed.daemon.start(&bed.sandbox).await?;
        for (number, archive) in archives.iter().enumerate() {
            let reference = format!("archive{number}");
            let digest = match put_bytes(bed.api(), &reference, archive).await {
                Err(status) if status.code() == Code::AlreadyExists => layers::digest(archive),
                put => put?,
            };
            let layer =
                descriptor("application/vnd.oci.image.layer.v1.tar", &digest, archive.len());
            let name = format!("{origin:?}-{number}");
            let merged = folder(bed, &format!("{name}-merged"))?;
            layers::copy(&below, &merged)?;
            apply(bed.api(), layer.clone(), vec![bind(&merged)]).await?;
            apply(bed.api(), layer, vec![overlay(bed, &name, &[&below])?]).await?;
            scenes.push((number, "merged", Scene::read(&merged)?));
            let upper = Scene::read(&bed.sandbox.path(&format!("{name}/fs")))?;
            scenes.push((number, "upper", upper));
        }
    }
    let (theirs, ours) = scenes.split_at(scenes.len() / 2);
    for (their, our) in theirs.iter().zip(ours) {
        their.2.must_be(&our.2).with_context(|| format!("archive {}, {}", their.0, their.1))?;
    }
    Ok(())
}

async fn each_unpacks_what_the_other_made(bed: &mut Bed) -> Result<()> {
    let (old, new) = (folder(bed, "old")?, folder(bed, "new")?);
    layers::fill(&old, 200)?;
    layers::copy(&old, &new)?;
    layers::alter(&new)?;
    let expected = Scene::read(&new)?.in_seconds();
    let request =
        DiffRequest { left: vec![bind(&old)], right: vec![bind(&new)], ..Default::default() };
    let mut made = Vec::new();
    for (maker, unpacker) in [(Origin::Debian, Origin::Ours), (Origin::Ours, Origin::Debian)] {
        bed.daemon.stop().await?;
        bed.daemon.switch_to(maker);
        bed.daemon.start(&bed.sandbox).await?;
        let layer = diff(bed.api(), request.clone()).await?;
        let bytes = read(bed.api(), &layer.digest).await?;
        made.push(layers::names(&layers::decompress(&bytes)?)?);
        bed.daemon.stop().await?;
        bed.daemon.switch_to(unpacker);
        bed.daemon.start(&bed.sandbox).await?;
        match put_bytes(bed.api(), "layer", &bytes).await {
            Err(status) if status.code() == Code::AlreadyExists => {}
            put => drop(put?),
        }
        let target = folder(bed, &format!("by-{unpacker:?}"))?;
        layers::copy(&old, &target)?;
        apply(bed.api(), layer, vec![bind(&target)]).await?;
        expected.must_be(&Scene::read(&target)?.in_seconds())?;
    }
    assert_eq!(made[0], made[1]);
    bed.daemon.stop().await?;
    bed.daemon.switch_to(Origin::Ours);
    bed.daemon.start(&bed.sandbox).await
}

async fn a_full_disk_is_told(bed: &mut Bed) -> Result<()> {
    let target = folder(bed, "small")?;
    bed.sandbox.mount_tmpfs(&target, 1 << 20)?;
    let archive = sample(bed)?;
    let digest = put_bytes(bed.api(), "a", &archive).await?;
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &digest, archive.len());
    let (found, text) = code(apply(bed.api(), layer, vec![bind(&target)]).await)?;
    assert_eq!(found, Code::ResourceExhausted);
    ensure!(text.contains("large"), "{text}");
    Ok(())
}

/// Killed at each step, the next daemon does the same again.
async fn a_crash_leaves_nothing_in_the_way(bed: &mut Bed) -> Result<()> {
    let archive = sample(bed)?;
    let digest = put_bytes(bed.api(), "a", &archive).await?;
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &digest, archive.len());
    let expected = Scene::read(&bed.sandbox.path("sample"))?;
    for place in ["diff.apply.opened", "diff.apply.entry:3", "diff.apply.unpacked"] {
        let target = folder(bed, &place.replace(['.', ':'], "-"))?;
        let mounts = vec![bind(&target)];
        layers::crash_at(bed, place, async |bed: &Bed| {
            apply(bed.api(), layer.clone(), mounts.clone()).await.map(drop)
        })
        .await?;
        apply(bed.api(), layer.clone(), vec![bind(&target)]).await?;
        expected.must_be(&Scene::read(&target)?)?;
    }
    let sample = bed.sandbox.path("sample");
    let empty = folder(bed, "empty")?;
    let request =
        DiffRequest { left: vec![bind(&empty)], right: vec![bind(&sample)], ..Default::default() };
    for place in [
        "diff.create.opened",
        "diff.create.entry:3",
        "diff.create.written",
        "diff.create.committed",
    ] {
        let before = list(bed.api(), &[]).await?.len();
        layers::crash_at(bed, place, async |bed: &Bed| {
            diff(bed.api(), request.clone()).await.map(drop)
        })
        .await?;
        let after = list(bed.api(), &[]).await?.len();
        assert_eq!(after, before + usize::from(place.ends_with("committed")), "{place}");
        let made = diff(bed.api(), request.clone()).await?;
        let found = info(bed.api(), &made.digest).await?;
        ensure!(found.labels.contains_key("containerd.io/uncompressed"), "no label");
        delete(bed.api(), &made.digest).await?;
    }
    Ok(())
}

/// Nobody waits for the end of a large layer.
async fn who_goes_away_ends_it(bed: &mut Bed) -> Result<()> {
    let big = folder(bed, "big")?;
    let file = fs::File::create(big.join("f"))?;
    file.set_len(1 << 40)?;
    let request = DiffRequest {
        left: vec![bind(&folder(bed, "empty")?)],
        right: vec![bind(&big)],
        ..Default::default()
    };
    let api = bed.api().clone();
    let waits = tokio::spawn(async move { diff(&api, request).await });
    tests::eventually(async || {
        ensure!(statuses(bed.api()).await?.first().is_some_and(|(_, offset)| *offset > 0), "begun");
        Ok(())
    })
    .await?;
    waits.abort();
    tests::eventually(async || {
        let left = statuses(bed.api()).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    ensure!(fs::metadata(big.join("f"))?.len() == 1 << 40, "it is as it was");
    Ok(())
}
