//! Our daemon with its content in another process: Debian's daemon, or another
//! one of ours.

use std::{collections::BTreeSet, fs, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use containerd_api::services::{
    images::v1::ListImagesRequest,
    introspection::v1::PluginsRequest,
    leases::v1::{CreateRequest, DeleteRequest},
};
use containerd_client::{ConnectOptions, ErrorKind, PullOptions, RegistryOptions, Where};
use tests::{
    Api, Bed, Origin, Pairing, Store, code,
    content::{BYE, HELLO, Write, blob_of, commit, data, get, list, put, stat, statuses},
    eventually,
    images::{Layout, Tool, layered, many_layers},
    registry::{Fault, Registry, Rule},
};
use tonic::Code;

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    an_image_lives_with_debians_daemon,
    an_image_lives_with_another_of_ours,
    debians_daemon_dies_while_content_is_written,
    another_of_ours_dies_while_content_is_written,
    only_one_store_is_used,
);

/// Name of the plugin, and the namespace that it has over there.
const NAME: &str = "elsewhere";

const DISABLED: &str = "disabled_plugins = [";

const LOCAL: &str = "\"io.containerd.content.v1.content\"";

/// Starts the daemon again, with its content at `socket`.
async fn connect(bed: &mut Bed, socket: &Path) -> Result<()> {
    bed.daemon.stop().await?;
    let file = fs::read_to_string(bed.daemon.config())?;
    ensure!(file.contains(DISABLED), "{file}");
    let file = file.replace(DISABLED, &format!("{DISABLED}{LOCAL}, "));
    let proxy = format!(
        "[proxy_plugins.{NAME}]\n\
         type = \"content\"\n\
         address = {socket:?}\n\
         capabilities = [\"far\"]\n\
         [proxy_plugins.{NAME}.exports]\n\
         where = \"elsewhere\"\n"
    );
    fs::write(bed.daemon.config(), format!("{file}{proxy}"))?;
    // Whatever is below the root from now on is there for no reason.
    let folder = bed.daemon.root().join("io.containerd.content.v1.content");
    fs::remove_dir_all(&folder)?;
    bed.daemon.start(&bed.sandbox).await?;
    ensure!(!folder.exists(), "{} is there again", folder.display());
    Ok(())
}

/// The other daemon, and its content in the namespace of the plugin.
async fn other(origin: Origin) -> Result<(Bed, Api)> {
    let pairing = match origin {
        Origin::Debian => Pairing::ORIGINAL,
        Origin::Ours => Pairing::OURS,
    };
    let bed = Bed::start(pairing).await?;
    let api = bed.api().in_namespace(NAME)?;
    Ok((bed, api))
}

/// The digests of all content.
async fn digests(api: &Api) -> Result<BTreeSet<String>> {
    Ok(list(api, &[]).await?.into_iter().map(|(digest, ..)| digest).collect())
}

async fn an_image_lives_with_debians_daemon(bed: &mut Bed) -> Result<()> {
    an_image_lives_elsewhere(bed, Origin::Debian).await
}

async fn an_image_lives_with_another_of_ours(bed: &mut Bed) -> Result<()> {
    an_image_lives_elsewhere(bed, Origin::Ours).await
}

async fn an_image_lives_elsewhere(bed: &mut Bed, origin: Origin) -> Result<()> {
    let (peer, there) = other(origin).await?;
    connect(bed, peer.daemon.socket()).await?;
    listed(bed).await?;
    let registry = Registry::start()?;
    let reference = registry.image("image:1");
    let (layout, made) = Layout::of(bed.sandbox.path("layout"), "1", &many_layers(3)?)?;
    layout.push(&bed.sandbox, "1", &reference).await?;
    let again = registry.image("again:1");
    for place in [&[][..], &["--local"]] {
        let ctr = bed.ctr(Origin::Ours);
        ctr.ok(&[&["images", "pull", "--plain-http"], place, &[&reference]].concat()).await?;
        let here = digests(bed.api()).await?;
        ensure!(here.contains(&made.digest), "{here:?}");
        assert_eq!(digests(&there).await?, here);
        // Whoever asks over there sees bytes only.
        for (digest, _, labels) in list(&there, &[]).await? {
            let keys: Vec<_> = labels.into_keys().collect();
            assert_eq!(keys, ["containerd.io/gc.root"], "{digest}");
        }
        ctr.run_image(&reference, "runs", "hello\n").await?;
        // To another namespace belong the same bytes.
        let other = bed.ctr_in(Origin::Ours, "other");
        other.pull(&reference).await?;
        assert_eq!(digests(&there).await?, here);
        other.remove_images(&[&reference]).await?;
        assert_eq!(digests(&there).await?, here);

        bed.crash().await?;
        let ctr = bed.ctr(Origin::Ours);
        ctr.ok(&["images", "push", "--plain-http", &again, &reference]).await?;
        let exported = bed.sandbox.path("exported.tar").display().to_string();
        ctr.ok(&["images", "export", &exported, &reference]).await?;
        let read = ["inspect", "--raw", &format!("oci-archive:{exported}")];
        Tool::skopeo(&bed.sandbox).run(&read).await?;
        ctr.ok(&["images", "convert", "--uncompress", &reference, "converted"]).await?;
        ctr.run_image("converted", "runs", "hello\n").await?;
        assert_eq!(digests(&there).await?, digests(bed.api()).await?);
        // Its collector takes nothing of ours.
        collect(&peer).await?;
        assert_eq!(digests(&there).await?, digests(bed.api()).await?);
        bed.daemon.stop().await?;
        let check = bed.daemon.command(&bed.sandbox)?.arg("check").stdout(Stdio::null()).status();
        ensure!(check.await?.success(), "{}", bed.daemon.log());
        bed.daemon.start(&bed.sandbox).await?;

        let ctr = bed.ctr(Origin::Ours);
        ctr.remove_images(&[&reference, "converted"]).await?;
        assert_eq!(Store::of(bed.api()).await?, Store::default());
        assert_eq!(digests(&there).await?, BTreeSet::new());
        assert_eq!(statuses(&there).await?, []);
    }
    Ok(())
}

/// Lets a daemon collect its garbage.
async fn collect(bed: &Bed) -> Result<()> {
    let id = "for-nothing".to_owned();
    let create = CreateRequest { id: id.clone(), ..Default::default() };
    bed.api().leases().create(create).await?;
    bed.api().leases().delete(DeleteRequest { id, sync: true }).await?;
    Ok(())
}

/// Is the plugin among the others, in the place of our own?
async fn listed(bed: &Bed) -> Result<()> {
    let filters = vec!["type==io.containerd.content.v1".to_owned()];
    let answer = bed.api().introspection().plugins(PluginsRequest { filters }).await?;
    let plugins = answer.into_inner().plugins;
    let [plugin] = &plugins[..] else { anyhow::bail!("{plugins:?}") };
    assert_eq!((plugin.id.as_str(), &plugin.capabilities[..]), (NAME, &["far".to_owned()][..]));
    assert_eq!(plugin.exports.get("where").map(String::as_str), Some("elsewhere"));
    ensure!(plugin.init_err.is_none(), "{plugin:?}");
    Ok(())
}

async fn debians_daemon_dies_while_content_is_written(bed: &mut Bed) -> Result<()> {
    it_dies_while_content_is_written(bed, Origin::Debian).await
}

async fn another_of_ours_dies_while_content_is_written(bed: &mut Bed) -> Result<()> {
    it_dies_while_content_is_written(bed, Origin::Ours).await
}

async fn it_dies_while_content_is_written(bed: &mut Bed, origin: Origin) -> Result<()> {
    let (mut peer, there) = other(origin).await?;
    connect(bed, peer.daemon.socket()).await?;
    let (mut write, _) = Write::open(bed.api(), stat("hello")).await?;
    write.send(data(0, "hel")).await?;
    assert_eq!(statuses(bed.api()).await?, [("hello".to_owned(), 3)]);
    peer.daemon.kill().await?;
    assert_eq!(code(write.send(data(3, "lo")).await)?.0, Code::Unavailable);
    assert_eq!(code(put(bed.api(), "bye", "bye").await)?.0, Code::Unavailable);
    assert_eq!(code(get(bed.api(), HELLO, 0, 0).await)?.0, Code::Unavailable);
    peer.daemon.start(&peer.sandbox).await?;
    assert_eq!(put(bed.api(), "bye", "bye").await?, BYE);
    let (mut write, opened) = Write::open(bed.api(), stat("hello")).await?;
    assert_eq!(opened.offset, 3);
    write.send(data(3, "lo")).await?;
    assert_eq!(write.send(commit(5, HELLO)).await?.digest, HELLO);
    assert_eq!(get(bed.api(), HELLO, 0, 0).await?, "hello");

    let registry = Registry::start()?;
    let (layout, made) = Layout::of(bed.sandbox.path("layout"), "1", &layered(1, 3 << 20)?)?;
    layout.push(&bed.sandbox, "1", &registry.image("image:1")).await?;
    let proxy = registry.proxy().await?;
    let reference = proxy.image("image:1");
    let large = layout.parts(&made)?.pop().context("no layer")?;
    let client =
        ConnectOptions::new(bed.daemon.socket()).timeout(tests::DEADLINE).connect().await?;
    let namespace = client.namespace(bed.namespace());
    for place in [Where::Daemon, Where::Local] {
        let options = PullOptions {
            registry: RegistryOptions { plain_http: true, ..RegistryOptions::default() },
            unpack: Some(String::new()),
            place,
            ..PullOptions::default()
        };
        // Slow enough to die in the midst of it.
        proxy.rule(Rule::new(&large, 1, Fault::Slow(1 << 20)));
        let begun = async || {
            let found = statuses(bed.api()).await?;
            ensure!(found.iter().any(|(_, offset)| *offset > 0), "{found:?}");
            Ok(())
        };
        let killing = async {
            eventually(begun).await?;
            peer.daemon.kill().await
        };
        let (pulled, killed) = tokio::join!(namespace.pull(&reference, &options), killing);
        killed?;
        assert_eq!(pulled.err().map(|e| e.kind()), Some(ErrorKind::Unavailable), "{place:?}");
        proxy.mend();
        let images = bed.api().images().list(ListImagesRequest::default()).await?.into_inner();
        ensure!(images.images.is_empty(), "{images:?}");
        // It says so at once, and does not wait for better times.
        let refused = namespace.pull(&reference, &options).await;
        assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::Unavailable), "{place:?}");
        peer.daemon.start(&peer.sandbox).await?;
        namespace.pull(&reference, &options).await?;
        let ctr = bed.ctr(Origin::Ours);
        ctr.run_image(&reference, "runs", "hello\n").await?;
        ctr.remove_images(&[&reference]).await?;
        // What had come was kept for the next try.
        for lease in Store::of(bed.api()).await?.leases {
            ctr.ok(&["leases", "rm", "--sync", &lease]).await?;
        }
        assert_eq!(Store::of(bed.api()).await?, Store::default());
        assert_eq!(digests(&there).await?, BTreeSet::new());
        assert_eq!(statuses(&there).await?, []);
    }
    Ok(())
}

/// As with containerd 2, whoever has two has none.
async fn only_one_store_is_used(bed: &mut Bed) -> Result<()> {
    bed.daemon.stop().await?;
    let file = fs::read_to_string(bed.daemon.config())?;
    let proxy = |name: &str| {
        format!("[proxy_plugins.{name}]\ntype = \"content\"\naddress = \"/run/{name}.sock\"\n")
    };
    let disabled = file.replace(DISABLED, &format!("{DISABLED}{LOCAL}, "));
    for (text, word) in [
        (format!("{file}{}", proxy("one")), "content, one"),
        (format!("{disabled}{}{}", proxy("one"), proxy("two")), "one, two"),
        (disabled.clone(), LOCAL.trim_matches('"')),
        (format!("{disabled}{}", proxy("'not a name'")), "not a name"),
    ] {
        fs::write(bed.daemon.config(), text)?;
        ensure!(bed.daemon.start(&bed.sandbox).await.is_err(), "it has started: {word}");
        let log = bed.daemon.log();
        ensure!(log.lines().next_back().is_some_and(|line| line.contains(word)), "{word}: {log}");
    }
    // Whether it is there shows when it is needed.
    fs::write(bed.daemon.config(), format!("{disabled}{}", proxy("one")))?;
    bed.daemon.start(&bed.sandbox).await?;
    assert_eq!(code(put(bed.api(), "hello", "hello").await)?.0, Code::Unavailable);
    let task = bed.start_container("any", "sleep 1000").await?;
    bed.destroy(&task).await?;
    fs::write(bed.daemon.config(), file)?;
    bed.daemon.stop().await?;
    bed.daemon.start(&bed.sandbox).await?;
    let digest = put(bed.api(), "hello", "hello").await?;
    ensure!(blob_of(&bed.daemon, &digest).exists(), "it is not below the root");
    Ok(())
}
