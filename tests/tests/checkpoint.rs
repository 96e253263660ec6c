//! Checkpoints: tasks that are written to disk, carried to a registry and back,
//! and go on where they were.

use anyhow::{Context, Result, ensure};
use containerd_client::{CheckpointOptions, Client, ConnectOptions, NewTask, TaskCheckpoint};
use tests::{
    Bed, Origin, Store,
    counter::{Counter, cgroups_mode, pulled, save},
    eventually,
    registry::Registry,
    with_criu,
};

/// How often in a row the same container is written and brought back.
const REPEATS: u32 = 20;

with_criu!(
    runc,
    tests::Pairing::OURS_WITH_RUNC,
    a_task_goes_on_in_its_container,
    a_container_goes_on_elsewhere,
    original_clients_checkpoint_and_restore,
    options_reach_the_runtime,
    a_terminal_is_another_one,
    what_was_left_out_is_not_missed,
    a_client_that_goes_away_removes_no_container,
    names_of_images_stay_what_they_are,
);
with_criu!(
    crun,
    tests::Pairing::OURS_WITH_CRUN,
    a_task_goes_on_in_its_container,
    a_container_goes_on_elsewhere,
);
with_criu!(our_shim, tests::Pairing::OUR_SHIM, a_container_goes_on_elsewhere);
with_criu!(shim_of_debian, tests::Pairing::OUR_DAEMON, a_container_goes_on_elsewhere);
with_criu!(original, tests::Pairing::ORIGINAL, a_container_goes_on_elsewhere);

async fn connect(bed: &Bed) -> Result<Client> {
    Ok(ConnectOptions::new(bed.daemon.socket()).timeout(tests::DEADLINE).connect().await?)
}

/// Written with and without its end, and restored in its own container.
async fn a_task_goes_on_in_its_container(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let before = Store::of(bed.api()).await?;
    let counter = Counter::start(bed, &image, "counter").await?;
    let ctr = &counter.ctr;

    let name = ctr.ok(&["tasks", "checkpoint", "counter"]).await?;
    ensure!(name.starts_with("containerd.io/checkpoint/counter:"), "{name}");
    counter.is("RUNNING").await?;
    let count = counter.goes_on(counter.count().await?).await?;
    ctr.remove_images(&[name.trim()]).await?;

    let client = connect(bed).await?;
    let namespace = client.namespace(bed.namespace());
    let mut count = count;
    for repeat in 0..REPEATS {
        let name = format!("example.com/counter:{repeat}");
        let options = CheckpointOptions {
            exit: true,
            cgroups_mode: cgroups_mode(bed).into(),
            ..CheckpointOptions::default()
        };
        let checkpoint = TaskCheckpoint::new().name(&name).options(options);
        let task = namespace.task("counter").await?;
        let made = task.checkpoint(&checkpoint).await?.context("no image")?;
        assert_eq!(task.wait().await?.status, 137);
        task.delete().await?;
        let container = namespace.container("counter").await?;
        let task = NewTask::default().from_checkpoint(&namespace, &made).await?;
        container.create_task(task).await?.start().await?;
        count = counter.goes_on(count).await.with_context(|| format!("repeat {repeat}"))?;
        ctr.remove_images(&[&name]).await?;
    }
    counter.listens().await?;
    counter.remove().await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    ctr.remove_images(&[&image]).await
}

/// With its image, its files and its memory it goes to a registry, is forgotten,
/// and comes back as a container of another name.
async fn a_container_goes_on_elsewhere(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let before = Store::of(bed.api()).await?;
    let image = pulled(bed, &registry).await?;
    let counter = Counter::start(bed, &image, "first").await?;
    let ctr = &counter.ctr;
    let saved = registry.image("saved:1");
    ctr.ok(&save(bed, "first", &saved)).await?;
    counter.is("RUNNING").await?;
    let count = counter.goes_on(0).await?;
    counter.goes_on(count).await?;
    counter.listens().await?;
    counter.remove().await?;
    ctr.ok(&["images", "push", "--plain-http", &saved]).await?;
    ctr.remove_images(&[&image, &saved]).await?;
    assert_eq!(Store::of(bed.api()).await?, before, "it is all gone");

    // Without what CRIU does for cgroups, it has to be the one of the same name.
    let second = if cgroups_mode(bed).is_empty() { "second" } else { "first" };
    let words = ["containers", "restore", "--rw", "--live", "--null-io", "--plain-http"];
    ctr.ok(&[&words[..], &[second, &saved]].concat()).await?;
    let second = Counter::of(bed, second);
    second.is("RUNNING").await?;
    let count = second.count().await?;
    second.goes_on(count).await?;
    second.listens().await?;
    second.remove().await?;

    // Without its memory it begins again, on top of what it has written.
    ctr.ok(&["containers", "restore", "--rw", "--null-io", "third", &saved]).await?;
    let third = Counter::of(bed, "third");
    third.exec("test -s /log && test -e /heard").await?;
    third.remove().await?;
    if bed.daemon.pairing().daemon == Origin::Ours {
        let words = ["run", "-d", "--null-io", "--checkpoint", &saved, &second.id];
        ctr.ok(&words).await?;
        let fourth = Counter::of(bed, &second.id);
        fourth.goes_on(fourth.count().await?).await?;
        fourth.remove().await?;
    }
    ctr.remove_images(&[&image, &saved]).await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    Ok(())
}

/// Debian's `ctr` does with our daemon what ours does.
async fn original_clients_checkpoint_and_restore(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let before = Store::of(bed.api()).await?;
    let debian = bed.ctr(Origin::Debian);
    let counter = Counter::start(bed, &image, "first").await?;
    let name = debian.ok(&["tasks", "checkpoint", "first"]).await?;
    counter.is("RUNNING").await?;
    counter.goes_on(counter.count().await?).await?;
    debian.remove_images(&[name.trim()]).await?;

    let saved = "example.com/saved:1";
    let words = ["containers", "checkpoint", "--rw", "--image", "--task", "first", saved];
    debian.ok(&words).await?;
    counter.goes_on(counter.count().await?).await?;
    counter.remove().await?;
    for (ctr, id) in [(&debian, "second"), (&counter.ctr, "third")] {
        let mut words = vec!["containers", "restore", "--live", "--rw"];
        if ctr.origin() == Origin::Ours {
            words.push("--null-io");
        }
        ctr.ok(&[&words[..], &[id, saved]].concat()).await?;
        let restored = Counter::of(bed, id);
        restored.goes_on(restored.count().await?).await?;
        restored.listens().await?;
        restored.remove().await?;
    }
    // What ours has saved, the original restores.
    let counter = Counter::start(bed, &image, "fourth").await?;
    let ours = "example.com/saved:2";
    let words = ["containers", "checkpoint", "--rw", "--image", "--task", "fourth", ours];
    counter.ctr.ok(&words).await?;
    counter.remove().await?;
    debian.ok(&["containers", "restore", "--live", "--rw", "fifth", ours]).await?;
    let restored = Counter::of(bed, "fifth");
    restored.goes_on(restored.count().await?).await?;
    restored.remove().await?;
    counter.ctr.remove_images(&[saved, ours]).await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    counter.ctr.remove_images(&[&image]).await
}

/// All that CRIU may be allowed is told to the runtime, and again when it restores.
async fn options_reach_the_runtime(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let said = bed.sandbox.path("said");
    let script =
        format!("#!/bin/sh\necho \"$@\" >> {}\nexec /usr/sbin/runc \"$@\"\n", said.display());
    bed.sandbox.executable("programs/runc", &script)?;
    let counter = Counter::start(bed, &image, "counter").await?;
    let folder = bed.sandbox.path("images").display().to_string();
    let work = bed.sandbox.path("criu-work").display().to_string();
    let flags = ["--tcp", "--unix-sockets", "--shell", "--file-locks", "--empty-ns", "network"];
    let more = ["--cgroups-mode", "soft", "--exit", "--image-path", &folder, "--work-path", &work];
    let words = [&["tasks", "checkpoint"][..], &flags, &more, &["counter"]].concat();
    assert_eq!(counter.ctr.ok(&words).await?, "", "a folder has no name");
    // The shim hears of the end a little later than CRIU.
    eventually(async || counter.is("STOPPED").await).await?;
    counter.end_task().await?;

    let client = connect(bed).await?;
    let container = client.namespace(bed.namespace()).container("counter").await?;
    let options = containerd_api::to_any(&containerd_api::runc::v1::Options {
        binary_name: "runc".into(),
        criu_image_path: folder.clone(),
        criu_work_path: work.clone(),
        ..Default::default()
    });
    container.create_task(NewTask::default().options(options)).await?.start().await?;
    counter.goes_on(counter.count().await?).await?;

    let said = std::fs::read_to_string(&said)?;
    for verb in [" checkpoint ", " restore "] {
        let line = said.lines().find(|line| line.contains(verb)).context(verb)?;
        for flag in [
            "--tcp-established",
            "--ext-unix-sk",
            "--shell-job",
            "--file-locks",
            "--empty-ns network",
            "--manage-cgroups-mode soft",
            &format!("--image-path {folder}"),
            &format!("--work-path {work}"),
        ] {
            ensure!(line.contains(flag), "no {flag} in {line}");
        }
    }
    counter.remove().await?;
    counter.ctr.remove_images(&[&image]).await
}

/// A terminal stays outside; what goes on gets the one that it is given then.
async fn a_terminal_is_another_one(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let ctr = bed.ctr(Origin::Ours);
    let script = "n=0; while read line; do n=$((n+1)); echo $n $line; echo $n > /last; done";
    let words = ["run", "-d", "-t", "--runc-binary", "runc", &image, "first", "/bin/sh", "-c"];
    ctr.ok(&[&words[..], &[script]].concat()).await?;
    let mut terminal = ctr.terminal(&["tasks", "attach", "first"])?;
    terminal.type_text("one\n")?;
    terminal.until("1 one").await?;
    ctr.ok(&save(bed, "first", "example.com/saved:1")).await?;
    terminal.type_text("two\n")?;
    terminal.until("2 two").await?;
    ctr.ok(&["tasks", "kill", "--signal", "9", "first"]).await?;
    terminal.wait().await?;
    ctr.ok(&["containers", "rm", "first"]).await?;

    let words = ["containers", "restore", "--live", "--rw", "second", "example.com/saved:1"];
    let mut terminal = ctr.terminal(&words)?;
    // It has heard but one line.
    terminal.type_text("again\n")?;
    terminal.until("2 again").await?;
    ctr.ok(&["tasks", "kill", "--signal", "9", "second"]).await?;
    assert_eq!(terminal.wait().await?.code(), Some(137));
    ctr.ok(&["containers", "rm", "second"]).await?;
    ctr.remove_images(&["example.com/saved:1", &image]).await
}

/// A container without its task begins again, and a task that has written no files
/// needs none.
async fn what_was_left_out_is_not_missed(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let before = Store::of(bed.api()).await?;
    let image = pulled(bed, &registry).await?;
    let ctr = bed.ctr(Origin::Ours);
    let [idle, saved] = ["example.com/idle:1", "example.com/saved:1"];
    let words = ["run", "-d", "--null-io", "--runc-binary", "runc", &image, "idle"];
    ctr.ok(&[&words[..], &["sleep", "100000"]].concat()).await?;
    ctr.ok(&["containers", "checkpoint", "--image", "--task", "idle", idle]).await?;
    Counter::of(bed, "idle").remove().await?;
    ctr.ok(&["run", "-d", "--null-io", "--checkpoint", idle, "idle"]).await?;
    Counter::of(bed, "idle").is("RUNNING").await?;
    Counter::of(bed, "idle").remove().await?;

    let counter = Counter::start(bed, &image, "first").await?;
    counter.end_task().await?;
    ctr.ok(&["containers", "checkpoint", "--image", "first", saved]).await?;
    ctr.ok(&["containers", "rm", "first"]).await?;
    ctr.ok(&["containers", "restore", "--null-io", "second", saved]).await?;
    let second = Counter::of(bed, "second");
    second.goes_on(0).await?;
    second.remove().await?;
    for words in [
        &["containers", "restore", "--null-io", "--rw", "none", saved][..],
        &["containers", "restore", "--null-io", "--live", "none", saved],
    ] {
        let output = ctr.run(words).await?;
        ensure!(output.code == Some(1) && output.stderr.contains(saved), "{output:?}");
    }
    assert_eq!(ctr.ok(&["containers", "ls", "-q"]).await?, "");
    ctr.remove_images(&[&image, idle, saved]).await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    Ok(())
}

/// What could be started is not removed for what happens afterwards.
async fn a_client_that_goes_away_removes_no_container(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let ctr = bed.ctr(Origin::Ours);
    let saved = "example.com/saved:1";
    let words = ["containers", "create", "--runc-binary", "runc", &image, "first", "/bin/sh"];
    let script = "touch /written; while :; do echo tick; sleep 0.02; done";
    ctr.ok(&[&words[..], &["-c", script]].concat()).await?;
    ctr.ok(&["containers", "checkpoint", "first", saved]).await?;
    ctr.ok(&["containers", "rm", "first"]).await?;

    let mut client = ctr.spawn(&["containers", "restore", "--attach", "second", saved])?;
    let mut output = client.stdout.take().context("no output")?;
    tokio::io::AsyncReadExt::read_u8(&mut output).await?;
    drop(output);
    let status = tests::within("the client", client.wait()).await??;
    ensure!(!status.success(), "it has lost nothing");
    // Its task has gone, and what it has written has not.
    ctr.ok(&["tasks", "start", "--detach", "--null-io", "second"]).await?;
    let second = Counter::of(bed, "second");
    second.exec("test -e /written").await?;
    second.remove().await?;
    ctr.remove_images(&[&image, saved]).await
}

/// A checkpoint says which image it was made from, but not what others are.
async fn names_of_images_stay_what_they_are(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let before = Store::of(bed.api()).await?;
    let image = pulled(bed, &registry).await?;
    let counter = Counter::start(bed, &image, "first").await?;
    let ctr = &counter.ctr;
    let saved = "example.com/saved:1";
    ctr.ok(&save(bed, "first", saved)).await?;
    counter.remove().await?;
    let images = Store::of(bed.api()).await?.images;
    let digest = |name: &str| {
        let found = images.iter().find(|(found, _)| found == name);
        found.map(|(_, digest)| digest.clone()).context("no such image")
    };

    ctr.ok(&["images", "tag", "--force", saved, &image]).await?;
    let restore = ["containers", "restore", "--live", "--rw", "--null-io", "second", saved];
    let output = ctr.run(&restore).await?;
    ensure!(output.code == Some(1), "{output:?}");
    for digest in [digest(&image)?, digest(saved)?] {
        ensure!(output.stderr.contains(&digest), "no {digest} in {output:?}");
    }
    let moved = Store::of(bed.api()).await?.images;
    ensure!(moved.contains(&(image.clone(), digest(saved)?)), "{moved:?}");
    assert_eq!(ctr.ok(&["containers", "ls", "-q"]).await?, "");

    ctr.remove_images(&[&image]).await?;
    ctr.ok(&restore).await?;
    assert_eq!(Store::of(bed.api()).await?.images, images, "it has its name again");
    let second = Counter::of(bed, "second");
    second.goes_on(second.count().await?).await?;
    second.remove().await?;
    ctr.remove_images(&[&image, saved]).await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    Ok(())
}
