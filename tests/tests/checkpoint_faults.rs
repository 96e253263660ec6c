//! Checkpoints that come to nothing: what cannot be written goes on, what is not
//! there is told, and nothing is left.

use std::{os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::{Context, Result, ensure};
use containerd_api::{services::tasks::v1::CreateTaskRequest, types::Descriptor};
use containerd_client::{ConnectOptions, NewTask};
use tar::EntryType;
use tests::{
    Bed, Origin, Store, code, content,
    counter::{COUNTER, Counter, entries, pulled},
    criu::Gate,
    eventually,
    faults::VARIABLE,
    images::digest_of,
    registry::Registry,
    with_criu,
};
use tonic::Code;

/// What CRIU has written of a container.
const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";

with_criu!(
    runc,
    tests::Pairing::OURS_WITH_RUNC,
    a_task_that_cannot_be_written_goes_on,
    a_daemon_that_dies_leaves_all_or_nothing,
    a_daemon_may_die_while_criu_writes,
    a_daemon_may_stop_while_criu_writes,
    a_task_goes_on_when_its_client_is_interrupted,
    nothing_ends_that_has_no_place,
    without_a_fit_criu_nothing_is_touched,
    what_is_no_checkpoint_is_refused,
    a_restore_that_hangs_can_be_ended,
);
with_criu!(crun, tests::Pairing::OURS_WITH_CRUN, a_task_that_cannot_be_written_goes_on);
with_criu!(embedded, tests::Pairing::OURS, the_embedded_runtime_names_the_remedy);

/// CRIU does not write files to disk that are large and have no name any more.
async fn a_task_that_cannot_be_written_goes_on(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let before = Store::of(bed.api()).await?;
    let image = pulled(bed, &registry).await?;
    let ctr = bed.ctr(Origin::Ours);
    let script = format!("head -c 4000000 /dev/zero > /big; exec 9</big; rm /big; {COUNTER}");
    let words = ["run", "-d", "--null-io", "--runc-binary", "runc", &image, "odd"];
    let words = [&words[..], &["/bin/sh", "-c", &script]].concat();
    ctr.ok(&words).await?;
    let counter = Counter::of(bed, "odd");
    counter.goes_on(0).await?;

    for exit in [false, true] {
        let words = ["tasks", "checkpoint", "odd", "--exit"];
        let output = ctr.run(&words[..if exit { 4 } else { 3 }]).await?;
        ensure!(output.code == Some(1) && output.stderr.contains("CRIU"), "{output:?}");
        counter.is("RUNNING").await?;
        counter.goes_on(counter.count().await?).await?;
    }
    // One that was paused stays so, and can go on.
    ctr.ok(&["tasks", "pause", "odd"]).await?;
    let output = ctr.run(&["tasks", "checkpoint", "odd"]).await?;
    ensure!(output.code == Some(1), "{output:?}");
    counter.is("PAUSED").await?;
    ctr.ok(&["tasks", "resume", "odd"]).await?;
    counter.goes_on(counter.count().await?).await?;
    let work = bed.daemon.root().join("io.containerd.runtime.v2.task").join(bed.namespace());
    let left = entries(&work.join("odd"))?.into_iter();
    let left: Vec<_> = left.filter(|name| name.starts_with("checkpoint-")).collect();
    ensure!(left.is_empty(), "{left:?} are left");
    counter.remove().await?;
    ctr.remove_images(&[&image]).await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    Ok(())
}

/// Wherever it dies, there is an image or there is none, and no part of one.
async fn a_daemon_that_dies_leaves_all_or_nothing(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let before = Store::of(bed.api()).await?;
    bed.daemon.use_debug_build()?;
    for place in ["tasks.checkpoint.written", "diff.create.written", "tasks.checkpoint.stored"] {
        bed.daemon.stop().await?;
        bed.daemon.set_environment(&[(VARIABLE, place)]);
        bed.daemon.start(&bed.sandbox).await?;
        let counter = Counter::start(bed, &image, "counter").await?;
        let output = counter.ctr.run(&["tasks", "checkpoint", "counter"]).await?;
        ensure!(output.code == Some(1), "{place}: {output:?}");
        eventually(async || bed.daemon.ended()?.context("it goes on")).await?;
        bed.daemon.set_environment(&[]);
        bed.daemon.start(&bed.sandbox).await?;

        let counter = Counter::of(bed, "counter");
        // The client was not told, so it could not let the task go on.
        counter.ctr.run(&["tasks", "resume", "counter"]).await?;
        counter.goes_on(counter.count().await?).await?;
        let work = bed.daemon.root().join("io.containerd.runtime.v2.task");
        let work = work.join(bed.namespace()).join("counter");
        eventually(async || {
            let left = entries(&work)?;
            ensure!(!left.iter().any(|name| name.starts_with("checkpoint-")), "{left:?}");
            Ok(())
        })
        .await?;
        counter.ctr.ok(&["tasks", "checkpoint", "--exit", "counter"]).await?;
        counter.remove().await?;
        let images = counter.ctr.ok(&["images", "ls", "-q"]).await?;
        let made: Vec<_> = images.lines().filter(|name| *name != image).collect();
        ensure!(made.len() == 1, "{place}: {images}");
        let leases = counter.ctr.ok(&["leases", "ls", "-q"]).await?;
        for lease in leases.lines() {
            counter.ctr.ok(&["leases", "rm", lease]).await?;
        }
        counter.ctr.remove_images(&made).await?;
        assert_eq!(Store::of(bed.api()).await?, before, "{place}");
    }
    bed.ctr(Origin::Ours).remove_images(&[&image]).await
}

/// The shim needs no daemon to go on; what it writes then is nobody's.
async fn a_daemon_may_die_while_criu_writes(bed: &mut Bed) -> Result<()> {
    leaves_while_criu_writes(bed, async |bed: &mut Bed| bed.crash().await).await
}

async fn a_daemon_may_stop_while_criu_writes(bed: &mut Bed) -> Result<()> {
    let restart = async |bed: &mut Bed| {
        bed.daemon.stop().await?;
        bed.daemon.start(&bed.sandbox).await
    };
    leaves_while_criu_writes(bed, restart).await
}

async fn leaves_while_criu_writes(
    bed: &mut Bed,
    leave: impl AsyncFn(&mut Bed) -> Result<()>,
) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let before = Store::of(bed.api()).await?;
    let gate = Gate::before_criu(bed)?;

    let counter = Counter::start(bed, &image, "counter").await?;
    let mut client = counter.ctr.spawn(&["tasks", "checkpoint", "counter"])?;
    gate.reached().await?;
    leave(bed).await?;
    let status = tests::within("the client", client.wait()).await??;
    ensure!(!status.success(), "nobody has told it so");
    let counter = Counter::of(bed, "counter");
    counter.is("PAUSED").await?;
    let work = bed.daemon.root().join("io.containerd.runtime.v2.task");
    let work = work.join(bed.namespace()).join("counter");
    let unfinished = || -> Result<bool> {
        Ok(entries(&work)?.iter().any(|name| name.starts_with("checkpoint-")))
    };
    ensure!(unfinished()?, "it is written to");

    leave(bed).await?;
    let counter = Counter::of(bed, "counter");
    ensure!(unfinished()?, "it is still written to");

    let _open = gate.open()?;
    // It waits until CRIU is done.
    counter.ctr.ok(&["tasks", "resume", "counter"]).await?;
    counter.is("RUNNING").await?;
    counter.goes_on(counter.count().await?).await?;
    bed.crash().await?;
    let counter = Counter::of(bed, "counter");
    eventually(async || {
        ensure!(!unfinished()?, "it is still there");
        Ok(())
    })
    .await?;
    counter.goes_on(counter.count().await?).await?;
    counter.remove().await?;
    let leases = counter.ctr.ok(&["leases", "ls", "-q"]).await?;
    for lease in leases.lines() {
        counter.ctr.ok(&["leases", "rm", "--sync", lease]).await?;
    }
    assert_eq!(Store::of(bed.api()).await?, before);
    counter.ctr.remove_images(&[&image]).await
}

/// Whoever interrupts it must not leave it paused.
async fn a_task_goes_on_when_its_client_is_interrupted(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let gate = Gate::before_criu(bed)?;
    let counter = Counter::start(bed, &image, "counter").await?;
    let mut client = counter.ctr.spawn(&["tasks", "checkpoint", "counter"])?;
    gate.reached().await?;
    counter.is("PAUSED").await?;
    let pid = i32::try_from(client.id().context("it has ended")?)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT)?;
    let _open = gate.open()?;
    let status = tests::within("the client", client.wait()).await??;
    ensure!(status.code() == Some(130), "{status}");
    counter.is("RUNNING").await?;
    counter.goes_on(counter.count().await?).await?;
    counter.remove().await?;
    counter.ctr.remove_images(&[&image]).await
}

/// What would be in the way afterwards is told before.
async fn nothing_ends_that_has_no_place(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let counter = Counter::start(bed, &image, "counter").await?;
    let ctr = &counter.ctr;
    let container = ["containers", "checkpoint", "--task", "--exit", "--rw", "--image", "counter"];
    let output = ctr.run(&[&container[..], &[&image]].concat()).await?;
    ensure!(output.code == Some(1) && output.stderr.contains(&image), "{output:?}");
    counter.is("RUNNING").await?;
    ctr.remove_images(&[&image]).await?;
    for words in [
        &[&container[..], &["example.com/saved:1"]].concat()[..],
        &["tasks", "checkpoint", "--exit", "counter"],
    ] {
        let output = ctr.run(words).await?;
        ensure!(output.code == Some(1) && output.stderr.contains(&image), "{output:?}");
        counter.is("RUNNING").await?;
        counter.goes_on(counter.count().await?).await?;
    }
    counter.remove().await
}

/// Which version is there, and which is needed, is told before anything is done.
async fn without_a_fit_criu_nothing_is_touched(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let saved = "example.com/saved:1";
    let counter = Counter::start(bed, &image, "counter").await?;
    let words = ["containers", "checkpoint", "--rw", "--image", "--task", "counter", saved];
    counter.ctr.ok(&words).await?;

    let old = "#!/bin/sh\necho Version: 3.14\n";
    let unfit = "#!/bin/sh\n[ \"$1\" = --version ] && echo Version: 3.17.1 && exit\n\
                 echo 'Error (criu/vdso.c:381): vdso: Unexpected bounds' >&2\nexit 1\n";
    let silent = "#!/bin/sh\nexit 0\n";
    for (script, expected) in [
        (old, "CRIU 3.15 or newer is needed, and 3.14 is installed"),
        (
            unfit,
            "CRIU 3.17.1 cannot work on this kernel: vdso: Unexpected bounds; CRIU 4.1 or newer",
        ),
        (silent, "does not tell its version"),
    ] {
        bed.sandbox.executable("programs/criu", script)?;
        refused(&counter, saved, expected).await?;
    }
    // Nothing but runc is to be found.
    let programs = bed.sandbox.path("bare");
    std::fs::create_dir(&programs)?;
    for program in ["/usr/sbin/runc", "/usr/bin/nsenter"] {
        let name = Path::new(program).file_name().context("no name")?;
        std::os::unix::fs::symlink(program, programs.join(name))?;
    }
    counter.remove().await?;
    bed.daemon.stop().await?;
    bed.daemon.set_environment(&[("PATH", &programs.display().to_string())]);
    bed.daemon.start(&bed.sandbox).await?;
    let counter = Counter::start(bed, &image, "counter").await?;
    refused(&counter, saved, "CRIU is not installed, and 3.15 or newer is needed").await?;
    counter.remove().await?;
    counter.ctr.remove_images(&[&image, saved]).await
}

async fn refused(counter: &Counter<'_>, saved: &str, expected: &str) -> Result<()> {
    let ctr = &counter.ctr;
    let checkpoint = ["containers", "checkpoint", "--task", &counter.id, "example.com/none:1"];
    for words in [
        &["tasks", "checkpoint", "--exit", &counter.id][..],
        &checkpoint,
        &["containers", "restore", "--rw", "--live", "--null-io", "restored", saved],
    ] {
        let output = ctr.run(words).await?;
        ensure!(
            output.code == Some(1) && output.stderr.contains(expected),
            "{words:?}: {output:?}"
        );
        counter.is("RUNNING").await?;
    }
    ensure!(!ctr.ok(&["containers", "ls", "-q"]).await?.contains("restored"), "it is left");
    counter.goes_on(counter.count().await?).await.map(drop)
}

/// Of what is none, nothing is left, and nothing gets out of the task's folder.
async fn what_is_no_checkpoint_is_refused(bed: &mut Bed) -> Result<()> {
    let spec = bed.spec("none", "sleep 1000");
    let container = bed.container("none", &spec).await?;
    let mut archive = tests::images::Layer::new();
    archive.symlink("link", "/tmp")?;
    archive.file("link/escaped", 0o644, b"no")?;
    let hostile = archive.finish()?;
    let mut archive = tests::images::Layer::new();
    archive.device("deep/inventory.img", EntryType::Fifo, (0, 0))?;
    let silent = archive.finish()?;
    let mut archive = tests::images::Layer::new();
    archive.file("core-1.img", 0o600, b"no")?;
    archive.symlink("parent", "nowhere")?;
    let empty = archive.finish()?;
    for (media_type, data, expected) in [
        ("application/vnd.oci.image.layer.v1.tar", &b"layer"[..], Code::InvalidArgument),
        (CHECKPOINT, b"no archive", Code::DataLoss),
        (CHECKPOINT, &hostile, Code::InvalidArgument),
        // Whoever reads from it waits for ever.
        (CHECKPOINT, &silent, Code::InvalidArgument),
        // It is unpacked, but there is nothing that CRIU could restore.
        (CHECKPOINT, &empty, Code::Ok),
    ] {
        let digest = digest_of(data);
        assert_eq!(content::put(bed.api(), "blob", data).await?, digest);
        let checkpoint = Descriptor {
            media_type: media_type.into(),
            size: i64::try_from(data.len())?,
            digest: digest.clone(),
            ..Descriptor::default()
        };
        let request = CreateTaskRequest {
            container_id: "none".into(),
            checkpoint: Some(checkpoint),
            ..CreateTaskRequest::default()
        };
        let created = bed.api().tasks().create(request.clone()).await;
        if expected == Code::Ok {
            created?;
            let mut task = bed.process("none", "");
            ensure!(task.start().await.is_err(), "it was restored");
            task.delete().await?;
        } else {
            assert_eq!(code(created)?.0, expected, "{media_type}");
        }
        ensure!(!Path::new("/tmp/escaped").exists(), "it got out");
        content::delete(bed.api(), &digest).await?;
        let absent = bed.api().tasks().create(request).await;
        let wanted = if media_type == CHECKPOINT { Code::NotFound } else { expected };
        assert_eq!(code(absent)?.0, wanted, "{media_type}");
    }
    Ok(container.delete().await?)
}

/// A folder with images may come from anywhere, with anything in it.
async fn a_restore_that_hangs_can_be_ended(bed: &mut Bed) -> Result<()> {
    let images = bed.sandbox.path("images");
    let inventory = images.join("inventory.img");
    std::fs::create_dir(&images)?;
    nix::unistd::mkfifo(&inventory, nix::sys::stat::Mode::S_IRWXU)?;
    // runc reads this, and then CRIU the inventory.
    std::fs::write(images.join("descriptors.json"), r#"["/dev/null", "/dev/null", "/dev/null"]"#)?;
    let spec = bed.spec("hangs", "sleep 1000");
    let container = bed.container("hangs", &spec).await?;
    let client = ConnectOptions::new(bed.daemon.socket()).connect().await?;
    let options = containerd_api::to_any(&containerd_api::runc::v1::Options {
        binary_name: "runc".into(),
        criu_image_path: images.display().to_string(),
        ..Default::default()
    });
    let of = client.namespace(bed.namespace()).container("hangs").await?;
    let task = of.create_task(NewTask::default().options(options)).await?;
    for _ in 0..2 {
        let killed = async {
            let mut write = std::fs::File::options();
            write.write(true).custom_flags(nix::libc::O_NONBLOCK);
            // Refused until CRIU is there, which then reads what never comes.
            let _inventory = eventually(async || Ok(write.open(&inventory)?)).await?;
            anyhow::Ok(task.kill(9).await?)
        };
        let both = async { tokio::join!(task.start(), killed) };
        let (started, killed) = tests::within("the start", both).await?;
        killed?;
        ensure!(started.is_err(), "it was restored");
    }
    task.delete().await?;
    Ok(container.delete().await?)
}

async fn the_embedded_runtime_names_the_remedy(bed: &mut Bed) -> Result<()> {
    let mut task = bed.create("embedded", "sleep 1000").await?;
    task.start().await?;
    let output = bed.ctr(Origin::Ours).run(&["tasks", "checkpoint", "embedded"]).await?;
    ensure!(output.code == Some(1) && output.stderr.contains("--runc-binary runc"), "{output:?}");
    assert_eq!(task.state().await?.status(), tests::Status::Running);
    bed.destroy(&task).await
}
