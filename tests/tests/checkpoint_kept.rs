//! Tasks that have ended with their checkpoint, which then came to nothing: what is
//! left of them is kept, and told of.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use containerd_client::{ConnectOptions, NewTask};
use tests::{
    Bed, Origin, Store,
    counter::{COUNTER, Counter, entries, pulled},
    eventually,
    registry::Registry,
    with_criu,
};

with_criu!(
    runc,
    tests::Pairing::OURS_WITH_RUNC,
    what_has_ended_is_kept_though_it_cannot_be_stored,
    what_has_ended_is_kept_though_its_runtime_fails,
);

/// Without a place for it on the daemon's disk, what a task has left when it ended
/// stays where it is, or is held by a lease.
async fn what_has_ended_is_kept_though_it_cannot_be_stored(bed: &mut Bed) -> Result<()> {
    let store = bed.daemon.root().join("io.containerd.content.v1.content");
    bed.daemon.stop().await?;
    bed.sandbox.mount_tmpfs(&store, STORE_BYTES)?;
    bed.daemon.start(&bed.sandbox).await?;
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let before = Store::of(bed.api()).await?;
    let client = ConnectOptions::new(bed.daemon.socket()).connect().await?;
    let namespace = client.namespace(bed.namespace());

    // The configuration is stored, the memory is not.
    let counter = Counter::start(bed, &image, "counter").await?;
    fill(bed, &store, Some(64 << 10))?;
    let checkpoint = ["tasks", "checkpoint", "--exit", "counter"];
    let output = counter.ctr.run(&checkpoint).await?;
    let work = bed.daemon.root().join("io.containerd.runtime.v2.task");
    let work = work.join(bed.namespace()).join("counter");
    let kept = entries(&work)?.into_iter().find(|name| name.starts_with("checkpoint-"));
    let kept = work.join(kept.with_context(|| format!("nothing is kept: {output:?}"))?);
    let told = output.stderr.contains(&kept.display().to_string());
    ensure!(output.code == Some(1) && told, "{output:?}");
    // The next daemon keeps it, too.
    bed.crash().await?;
    let counter = Counter::of(bed, "counter");
    counter.is("STOPPED").await?;
    let aside = bed.sandbox.path("aside");
    tokio::process::Command::new("cp").arg("-a").arg(&kept).arg(&aside).status().await?;
    fill(bed, &store, None)?;
    counter.end_task().await?;
    ensure!(!kept.exists(), "it goes with the task");
    let options = containerd_api::to_any(&containerd_api::runc::v1::Options {
        binary_name: "runc".into(),
        criu_image_path: aside.display().to_string(),
        ..Default::default()
    });
    let task = NewTask::default().options(options);
    namespace.container("counter").await?.create_task(task).await?.start().await?;
    counter.goes_on(counter.count().await?).await?;

    // The memory is stored, the files are not.
    counter.exec("head -c 6000000 /dev/urandom > /big").await?;
    fill(bed, &store, Some(5 << 20))?;
    let output = counter.ctr.run(&checkpoint).await?;
    ensure!(output.code == Some(1) && output.stderr.contains("lease"), "{output:?}");
    fill(bed, &store, None)?;
    eventually(async || counter.is("STOPPED").await).await?;
    let leases = counter.ctr.ok(&["leases", "ls", "-q"]).await?;
    ensure!(leases.lines().count() == 1 && output.stderr.contains(leases.trim()), "{leases}");
    counter.ctr.ok(&["content", "ls"]).await?;
    let held = namespace.leases().resources(leases.trim()).await?;
    ensure!(held.len() == 2, "{held:?}");
    for resource in held {
        namespace.content().info(&resource.id).await?;
    }
    counter.ctr.ok(&["leases", "rm", "--sync", leases.trim()]).await?;
    counter.remove().await?;
    assert_eq!(Store::of(bed.api()).await?, before);
    counter.ctr.remove_images(&[&image]).await?;
    bed.daemon.stop().await?;
    bed.sandbox.unmount(&store)?;
    bed.daemon.start(&bed.sandbox).await
}

/// CRIU's last act is to end what it has written, and its runtime can still fail.
async fn what_has_ended_is_kept_though_its_runtime_fails(bed: &mut Bed) -> Result<()> {
    let registry = Registry::start()?;
    let image = pulled(bed, &registry).await?;
    let script = "#!/bin/sh\nrunc \"$@\" || exit\n\
                  for word; do [ \"$word\" != checkpoint ] || exit 1; done\n";
    bed.sandbox.executable("programs/failing", script)?;
    let ctr = bed.ctr(Origin::Ours);
    // It deletes the task as soon as that has ended, and the container with it.
    let words = ["run", "--rm", "--null-io", "--runc-binary", "failing", &image, "counter"];
    let attached = ctr.spawn(&[&words[..], &["/bin/sh", "-c", COUNTER]].concat())?;
    let counter = Counter::of(bed, "counter");
    eventually(async || counter.is("RUNNING").await).await?;
    let count = counter.goes_on(0).await?;
    let output = ctr.run(&["tasks", "checkpoint", "--exit", "--file-locks", "counter"]).await?;
    let work = bed.daemon.root().join("io.containerd.runtime.v2.task");
    let work = work.join(bed.namespace()).join("counter");
    let kept = entries(&work)?.into_iter().find(|name| name.starts_with("checkpoint-"));
    let kept = work.join(kept.with_context(|| format!("nothing is kept: {output:?}"))?);
    let told = output.stderr.contains(&kept.display().to_string());
    ensure!(told && output.stderr.contains("perhaps not all of it"), "{output:?}");
    let allowed = std::fs::read_to_string(kept.join("checkpoint-options.json"))?;
    ensure!(allowed.contains("\"file_locks\":true"), "{allowed}");
    let left = tests::within("the other client", attached.wait_with_output()).await??;
    let stderr = String::from_utf8_lossy(&left.stderr);
    ensure!(left.status.code() == Some(1), "{left:?}");
    ensure!(stderr.contains(&kept.display().to_string()), "{stderr}");
    let aside = bed.sandbox.path("aside");
    tokio::process::Command::new("cp").arg("-a").arg(&kept).arg(&aside).status().await?;
    counter.end_task().await?;
    let client = ConnectOptions::new(bed.daemon.socket()).connect().await?;
    let options = containerd_api::to_any(&containerd_api::runc::v1::Options {
        binary_name: "runc".into(),
        criu_image_path: aside.display().to_string(),
        ..Default::default()
    });
    let container = client.namespace(bed.namespace()).container("counter").await?;
    container.create_task(NewTask::default().options(options)).await?.start().await?;
    counter.goes_on(count).await?;
    counter.remove().await?;
    counter.ctr.remove_images(&[&image]).await
}

/// How large the store is that is filled, in bytes.
const STORE_BYTES: usize = 24 << 20;

/// Fills a filesystem of the daemon but for so many bytes; nothing is empty again.
fn fill(bed: &Bed, folder: &Path, but: Option<usize>) -> Result<()> {
    let filler = folder.join("filler");
    let filler = filler.display();
    let script = match but {
        Some(but) => {
            format!("dd if=/dev/zero of={filler} bs=4096 2> /dev/null; truncate -s -{but} {filler}")
        }
        None => format!("rm {filler}"),
    };
    let (program, arguments) = bed.sandbox.command(Path::new("/bin/sh"));
    let command =
        std::process::Command::new(program).args(arguments).args(["-c", &script]).status();
    ensure!(command?.success(), "cannot fill {filler}");
    Ok(())
}
