//! Images from and to a real registry, made by the programs of other people.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    Bed, Origin, Sandbox,
    images::{
        Image, Layer, Layout, Tool, buildah_image, busybox, everything, everything_and_more,
        many_layers, umoci_image,
    },
    registry::{Fault, HOST, Options, PASSWORD, Registry, Rule, USER},
};

tests::every_daemon!(
    everything_in_a_layer_arrives,
    what_was_pulled_is_pushed_back,
    images_of_other_builders_run,
    archives_go_both_ways,
    one_platform_of_several_is_pulled,
    registries_with_locks_are_opened,
    a_mirror_is_asked_first,
);

/// The digest of an image in a registry.
async fn digest_of(sandbox: &Sandbox, reference: &str) -> Result<String> {
    let reference = format!("docker://{reference}");
    let words = ["inspect", "--tls-verify=false", "--no-tags", &reference];
    let text = Tool::skopeo(sandbox).run(&words).await?;
    let value: Value = serde_json::from_str(&text)?;
    Ok(value["Digest"].as_str().context("no digest")?.to_owned())
}

/// Whiteouts, links, devices, modes, holes, odd names: as a container sees them.
async fn everything_in_a_layer_arrives(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let reference = registry.image("everything:1");
    let image = match bed.daemon.pairing().daemon {
        Origin::Debian => everything()?,
        Origin::Ours => everything_and_more()?,
    };
    let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &image)?;
    layout.push(&bed.sandbox, "1", &reference).await?;
    for ctr in bed.image_clients() {
        ctr.pull(&reference).await?;
        // What is not well is the end of it, with a code.
        let said = ctr.ok(&["run", "--rm", &reference, "check"]).await?;
        let (well, last) = ("all is well\n", said.lines().last().unwrap_or_default());
        match bed.daemon.pairing().daemon {
            // It fills holes.
            Origin::Debian if last.starts_with("not sparse: ") => ctr.expect("", well)?,
            Origin::Debian => ctr.expect(last, well.trim_end())?,
            Origin::Ours => ctr.expect(&said, well)?,
        }
        ctr.remove_images(&[&reference]).await?;
    }
    Ok(())
}

async fn what_was_pulled_is_pushed_back(bed: &mut Bed) -> Result<()> {
    let (from, to) = (Registry::start()?, Registry::start()?);
    let (layout, made) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(5)?)?;
    layout.push(&bed.sandbox, "1", &from.image("many:1")).await?;
    for (number, ctr) in bed.image_clients().iter().enumerate() {
        let (pulled, pushed) = (from.image("many:1"), to.image(&format!("pushed-{number}:2")));
        ctr.pull(&pulled).await?;
        let listed = ctr.ok(&["images", "ls"]).await?;
        ensure!(listed.contains(&pulled) && listed.contains(&made.digest), "{listed}");
        ctr.ok(&["images", "tag", &pulled, &pushed]).await?;
        ctr.ok(&["images", "push", "--plain-http", &pushed]).await?;
        assert_eq!(digest_of(&bed.sandbox, &pushed).await?, made.digest);
        ctr.remove_images(&[&pulled, &pushed]).await?;
        // What came back is what it was.
        ctr.pull(&pushed).await?;
        ctr.run_image(&pushed, "back", "hello\n").await?;
        ctr.remove_images(&[&pushed]).await?;
    }
    Ok(())
}

async fn images_of_other_builders_run(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let skopeo = Tool::skopeo(&bed.sandbox);
    let umoci = format!("oci:{}:made", umoci_image(&bed.sandbox).await?.display());
    let buildah = format!("oci:{}:made", buildah_image(&bed.sandbox).await?.display());
    let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(2)?)?;
    let own = layout.reference("1");
    let mut all = Vec::new();
    for (name, source, flags, said) in [
        ("umoci", &umoci, &[][..], "umoci\n"),
        ("buildah", &buildah, &[], "buildah\n"),
        ("docker", &own, &["--format", "v2s2"], "hello\n"),
        ("umoci-docker", &umoci, &["--format", "v2s2"], "umoci\n"),
        ("zstd", &own, &["--dest-compress-format", "zstd", "--format", "oci"], "hello\n"),
        ("buildah-zstd", &buildah, &["--dest-compress-format", "zstd"], "buildah\n"),
    ] {
        let reference = registry.image(&format!("{name}:1"));
        skopeo.copy(flags, source, &format!("docker://{reference}")).await?;
        all.push((name, reference, said));
    }
    for ctr in bed.image_clients() {
        for (name, reference, said) in &all {
            ctr.pull(reference).await?;
            ctr.run_image(reference, name, said).await?;
        }
        let references: Vec<_> = all.iter().map(|(_, reference, _)| reference.as_str()).collect();
        ctr.remove_images(&references).await?;
    }
    Ok(())
}

/// What we export, skopeo reads; what skopeo writes, we import.
async fn archives_go_both_ways(bed: &mut Bed) -> Result<()> {
    let skopeo = Tool::skopeo(&bed.sandbox);
    let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(3)?)?;
    let source = layout.reference("1");
    let (oci, docker) = (bed.sandbox.path("oci.tar"), bed.sandbox.path("docker.tar"));
    let (oci, docker) = (oci.display().to_string(), docker.display().to_string());
    let name = "example.com/archive:1";
    skopeo.copy(&[], &source, &format!("oci-archive:{oci}:{name}")).await?;
    skopeo.copy(&[], &source, &format!("docker-archive:{docker}:{name}")).await?;
    let own = layout.archive()?.display().to_string();
    for (number, ctr) in bed.image_clients().iter().enumerate() {
        for (kind, words) in [
            ("oci", vec!["images", "import", &oci]),
            ("docker", vec!["images", "import", &docker]),
            ("own", vec!["images", "import", "--base-name", "example.com/archive", &own]),
        ] {
            ctr.ok(&words).await.context(kind)?;
            ctr.run_image(name, kind, "hello\n").await?;
            let exported = bed.sandbox.path(&format!("exported-{kind}-{number}.tar"));
            let exported = exported.display().to_string();
            ctr.ok(&["images", "export", &exported, name]).await?;
            ctr.remove_images(&[name]).await?;
            let read = ["inspect", "--config", &format!("oci-archive:{exported}")];
            let config: Value = serde_json::from_str(&skopeo.run(&read).await?)?;
            assert_eq!(config["config"]["Cmd"][1], "hello", "{kind}");
            let copied = bed.sandbox.path(&format!("copied-{kind}-{number}"));
            let target = format!("oci:{}:1", copied.display());
            skopeo.copy(&[], &format!("oci-archive:{exported}"), &target).await?;
            // And so do we.
            ctr.ok(&["images", "import", &exported]).await.context(kind)?;
            ctr.run_image(name, "again", "hello\n").await?;
            ctr.remove_images(&[name]).await?;
        }
    }
    Ok(())
}

/// The others are not fetched, and need not be there.
async fn one_platform_of_several_is_pulled(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let mut layout = Layout::new(bed.sandbox.path("layout"))?;
    let mine = layout.add(&busybox()?)?;
    let mut other = Layer::new();
    other.file("other", 0o644, b"other")?;
    let other = Image::new(&["/other"]).architecture("s390x").layer(other.finish()?);
    let other = layout.add(&other)?;
    let index = layout.add_index(&[other.clone(), mine.clone()])?;
    layout.tag("1", &index)?;
    let reference = registry.image("several:1");
    layout.push(&bed.sandbox, "1", &reference).await?;

    let other_layer = layout.parts(&other)?.pop().context("no layer")?;

    // Nor in an archive.
    fs::remove_file(layout.blob(&other.digest))?;
    let archive = layout.archive()?.display().to_string();
    for ctr in bed.image_clients() {
        ctr.pull(&reference).await?;
        ctr.run_image(&reference, "pulled", "hello\n").await?;
        let found = tests::content::list(bed.api(), &[]).await?;
        let found: Vec<_> = found.into_iter().map(|found| found.0).collect();
        ensure!(found.contains(&mine.digest) && found.contains(&index.digest), "{found:?}");
        // Newer clients fetch the other manifests, so that all can be pushed.
        ensure!(!found.contains(&other_layer), "the other platform was pulled");
        ctr.remove_images(&[&reference]).await?;
        let import = ["images", "import", "--base-name", "example.com/several", &archive];
        ctr.ok(&import).await?;
        let name = "example.com/several:1";
        ctr.run_image(name, "imported", "hello\n").await?;
        ctr.remove_images(&[name]).await?;
    }
    Ok(())
}

/// Passwords, tokens, and certificates that no machine knows.
async fn registries_with_locks_are_opened(bed: &mut Bed) -> Result<()> {
    let (layout, made) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(1)?)?;
    let user = format!("{USER}:{PASSWORD}");
    let locked = Options { password: true, tls: true, client_certificate: true };
    let locked = Registry::start_with(locked)?;
    bed.sandbox.name_this_machine(HOST)?;
    let token = Registry::start()?;
    let proxy = token.proxy().await?;
    proxy.require_token("a-token");

    let certificates = locked.certificates().context("certificates")?;
    let [ca, certificate, key] =
        [&certificates.ca, &certificates.client_certificate, &certificates.client_key]
            .map(|path| path.display().to_string());
    // The way of the image into the first one: its certificates in one folder.
    let folder = bed.sandbox.path("certificates");
    fs::create_dir(&folder)?;
    for (from, to) in [(&ca, "ca.crt"), (&certificate, "client.cert"), (&key, "client.key")] {
        fs::copy(from, folder.join(to))?;
    }
    let folder = folder.display().to_string();
    let target = locked.image_by_name("image:1");
    let to = format!("docker://{target}");
    let words = ["--dest-cert-dir", &folder, "--dest-creds", &user];
    let words =
        [&["--insecure-policy", "copy", "--quiet"], &words[..], &[&layout.reference("1"), &to]];
    Tool::skopeo(&bed.sandbox).run(&words.concat()).await?;
    layout.push(&bed.sandbox, "1", &token.image("image:1")).await?;

    for ctr in bed.image_clients() {
        let tls = ["--tlscacert", &ca, "--tlscert", &certificate, "--tlskey", &key];
        let with_user = ["--user", &user];
        let pull = async |words: &[&[&str]], reference: &str| {
            ctr.run(&[&["images", "pull"], &words.concat()[..], &[reference]].concat()).await
        };
        for (name, refused) in [
            ("nothing", &[][..]),
            ("no password", &[&tls[..]][..]),
            ("a wrong password", &[&tls[..], &["--user", "user:wrong"]]),
            ("no certificate", &[&with_user[..], &tls[..2]]),
        ] {
            let output = pull(refused, &target).await?;
            ensure!(output.code == Some(1), "with {name}: {output:?}");
        }
        pull(&[&tls, &with_user], &target).await?.ok()?;
        ctr.run_image(&target, "locked", "hello\n").await?;
        let pushed = locked.image_by_name("pushed:1");
        ctr.ok(&["images", "tag", &target, &pushed]).await?;
        let push = [&["images", "push"], &tls[..], &with_user, &[&pushed]].concat();
        ctr.ok(&push).await?;

        let reference = proxy.image("image:1");
        let anonymous = pull(&[&["--plain-http"]], &reference).await?;
        ensure!(anonymous.code == Some(1), "{anonymous:?}");
        pull(&[&["--plain-http"], &with_user], &reference).await?.ok()?;
        let listed = ctr.ok(&["images", "ls"]).await?;
        ensure!(listed.matches(&made.digest).count() == 3, "{listed}");
        let pushed_there = proxy.image("pushed:1");
        ctr.ok(&["images", "tag", &target, &pushed_there]).await?;
        let push = [&["images", "push", "--plain-http"], &with_user[..], &[&pushed_there]].concat();
        ctr.ok(&push).await?;
        assert_eq!(digest_of(&bed.sandbox, &token.image("pushed:1")).await?, made.digest);
        ctr.remove_images(&[&target, &pushed, &reference, &pushed_there]).await?;
    }
    Ok(())
}

/// A folder says who else has the images of a registry, and how to speak to it.
async fn a_mirror_is_asked_first(bed: &mut Bed) -> Result<()> {
    let (layout, _) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(1)?)?;
    let (mirror, broken) = (Registry::start()?, Registry::start()?);
    let tls = Registry::start_with(Options { tls: true, ..Options::default() })?;
    layout.push(&bed.sandbox, "1", &mirror.image("some/image:1")).await?;
    let (mirror, broken) = (mirror.proxy().await?, broken.proxy().await?);
    broken.rule(Rule::always("", Fault::status(503)));
    let hosts = bed.sandbox.path("hosts");
    let host = hosts.join("registry.example.com");
    fs::create_dir_all(&host)?;
    let ca = tls.certificates().context("certificates")?.ca.clone();
    fs::write(
        host.join("hosts.toml"),
        format!(
            "server = \"https://registry.example.com\"\n\
             [host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n\
             [host.\"https://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = {ca:?}\n\
             [host.\"http://{}/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n\
             \x20 override_path = true\n",
            broken.address(),
            tls.address(),
            mirror.address(),
        ),
    )?;
    let hosts = hosts.display().to_string();
    for ctr in bed.image_clients() {
        let name = "registry.example.com/some/image:1";
        ctr.ok(&["images", "pull", "--hosts-dir", &hosts, name]).await?;
        ctr.run_image(name, "mirrored", "hello\n").await?;
        ensure!(!broken.take_seen().is_empty(), "the first host was not asked");
        let seen = mirror.take_seen();
        ensure!(seen.iter().any(|seen| seen.path.contains("/blobs/")), "{seen:?}");
        ctr.remove_images(&[name]).await?;
    }
    Ok(())
}
