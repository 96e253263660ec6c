//! A shim that is killed: the daemon tells everybody, cleans up, and goes on.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{Bed, Origin, Pairing, Status, Stdio, code, eventually, order, proc};
use tonic::Code;

tests::every_pairing!(
    exit_and_delete_are_announced,
    others_are_not_disturbed;
    our_daemon:
    callers_are_not_left_hanging,
    execs_are_announced_too,
    many_at_once,
);

/// The task is over for everybody, and its id can be used again.
async fn exit_and_delete_are_announced(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let spec = bed.spec("victim", "sleep 1000");
    let container = bed.container("victim", &spec).await?;
    let mut task = container.task(false, bed.rootfs_mounts(), Stdio::null()).await?;
    task.start().await?;
    let is_original = bed.daemon.pairing().daemon == Origin::Debian;
    if is_original {
        // What the shim has not said when it dies, the original does not say for it.
        events.wait_for("the start", |event| event.topic == tests::Topic::Start).await?;
    }
    kill_shim(bed, "victim")?;

    let exit = events.exit_of("victim", "victim").await?;
    assert_eq!((exit.status, exit.pid), (Some(137), task.pid));
    events.delete_of("victim").await?;
    eventually(async || {
        ensure!(!proc::is_alive(task.pid), "the container outlives its shim");
        let (gone, message) = code(task.state().await)?;
        ensure!(gone == Code::NotFound, "{gone:?} {message}");
        Ok(())
    })
    .await?;

    // The record is still there, so the container can have a new task.
    // The original announces the end and then forgets the task.
    let mut task =
        eventually(async || match container.task(false, Vec::new(), Stdio::null()).await {
            Err(status) if is_original && status.code() == Code::AlreadyExists => {
                Err(status.into())
            }
            other => Ok(other),
        })
        .await??;
    task.start().await?;
    assert_eq!(task.state().await?.status(), Status::Running);
    bed.destroy(&task).await?;
    eventually(async || {
        let deletes = events.all().iter().filter(|e| e.topic == tests::Topic::Delete).count();
        ensure!(deletes == 2, "{deletes} tasks deleted");
        Ok(())
    })
    .await?;
    order::check(&events.all())
}

/// What the daemon does about the dead one is no business of the others.
async fn others_are_not_disturbed(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    bed.start_container("victim", "sleep 1000").await?;
    let other = bed.start_container("other", "sleep 1000").await?;
    kill_shim(bed, "victim")?;
    events.delete_of("victim").await?;
    let mut exec = other.exec("job", "exit 21", false, Stdio::null()).await?;
    exec.start().await?;
    assert_eq!(exec.wait().await?.status, 21);
    bed.destroy(&other).await?;
    if bed.daemon.pairing() == Pairing::ORIGINAL {
        // Neither the original daemon nor its shim removes the dead one's
        // socket. The other shim removes its own, in a moment.
        let sockets = bed.sandbox.run("containerd/s");
        eventually(async || {
            let left: Vec<_> = sockets.read_dir()?.collect::<Result<_, _>>()?;
            ensure!(left.len() == 1, "{left:?}");
            Ok(std::fs::remove_file(left[0].path())?)
        })
        .await?;
    }
    bed.remove_record("victim").await
}

/// A client that waits gets the exit; one that asks gets an answer.
/// (The original daemon reports a lost connection to the one who waits.)
async fn callers_are_not_left_hanging(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("victim", "sleep 1000").await?;
    let (exit, killed) = tokio::join!(task.wait(), async {
        // The state is asked for on the same connection as the wait before it.
        task.state().await?;
        kill_shim(bed, "victim")
    });
    killed?;
    assert_eq!(exit?.status, 137);
    events.delete_of("victim").await?;
    let (gone, message) = code(task.kill(Signal::SIGTERM).await)?;
    assert_eq!(gone, Code::NotFound, "{message}");
    bed.remove_record("victim").await
}

/// Execs of a lost container have exits as well, before that of init.
async fn execs_are_announced_too(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("victim", "sleep 1000").await?;
    let mut exec = task.exec("job", "sleep 1000", false, Stdio::null()).await?;
    exec.start().await?;
    events.wait_for("start of the exec", |event| event.topic == tests::Topic::ExecStarted).await?;
    kill_shim(bed, "victim")?;
    events.delete_of("victim").await?;
    let all = events.all();
    order::check(&all)?;
    order::exactly_one_exit(&all, [("victim", "job"), ("victim", "victim")])?;
    bed.remove_record("victim").await
}

/// All shims die at the same moment.
async fn many_at_once(bed: &mut Bed) -> Result<()> {
    const COUNT: usize = 10;
    bed.daemon.stop().await?;
    // So many runtimes at once take their time on a busy machine.
    let limit = "[timeouts]\n'io.containerd.timeout.shim.cleanup' = '60s'\n";
    let config = fs::read_to_string(bed.daemon.config())?;
    fs::write(bed.daemon.config(), config + limit)?;
    bed.daemon.start(&bed.sandbox).await?;
    let events = bed.events().await?;
    let ids: Vec<_> = (0..COUNT).map(|number| format!("victim-{number}")).collect();
    for id in &ids {
        bed.start_container(id, "sleep 1000").await?;
    }
    let survivor = bed.start_container("survivor", "sleep 1000").await?;
    for id in &ids {
        kill_shim(bed, id)?;
    }
    for id in &ids {
        events.delete_of(id).await?;
        bed.remove_record(id).await?;
    }
    assert_eq!(survivor.state().await?.status(), Status::Running);
    bed.destroy(&survivor).await?;
    events.delete_of("survivor").await?;
    let all = events.all();
    order::check(&all)?;
    order::exactly_one_exit(&all, ids.iter().map(|id| (id.as_str(), id.as_str())))
}

fn kill_shim(bed: &Bed, id: &str) -> Result<()> {
    let shim = bed.sandbox.shim_of(id).with_context(|| format!("no shim of {id}"))?;
    proc::signal(shim, Signal::SIGKILL);
    Ok(())
}
