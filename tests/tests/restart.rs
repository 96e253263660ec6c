//! What happens to containers while the daemon is not there: nothing.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use prost_types::Timestamp;
use tests::{Bed, Status, Topic, eventually, order, proc};

tests::every_pairing!(
    running_tasks_are_found_again,
    streams_survive,
    waiting_again_finds_the_exit,
    created_task_can_be_started_later,
    paused_task_stays_paused,
    sigterm_leaves_containers_alone;
    our_daemon:
    exit_during_downtime_is_kept_and_announced_once,
    exec_exit_during_downtime_is_announced_once,
    late_subscriber_hears_what_recovery_found,
    shim_that_died_during_downtime,
    restart_after_restart_announces_nothing_twice,
);

/// A script that exits with `status` when it is told to.
fn obedient(status: u32) -> String {
    format!("trap 'exit {status}' TERM; echo ready; while true; do sleep 1000 & wait $!; done")
}

/// The same task under the same pid, and it does what it is told.
async fn running_tasks_are_found_again(bed: &mut Bed) -> Result<()> {
    let mut tasks = Vec::new();
    for number in 0..5 {
        tasks.push(bed.start_container(&format!("steady-{number}"), "sleep 1000").await?);
    }
    for _ in 0..3 {
        bed.crash().await?;
        for task in &tasks {
            let state = task.state().await?;
            assert_eq!((state.status(), state.pid), (Status::Running, task.pid));
            assert!(proc::is_alive(task.pid));
        }
    }
    let mut exec =
        tasks[0].exec("after", "echo still here", false, bed.fifos("x", false, true)?).await?;
    exec.start().await?;
    assert_eq!(exec.wait().await?.status, 0);
    assert_eq!(exec.stdio.all_output().await?, "still here\n");
    for task in &tasks {
        bed.destroy(task).await?;
    }
    Ok(())
}

/// Output that is written while the daemon is down arrives; input too.
async fn streams_survive(bed: &mut Bed) -> Result<()> {
    let spec = bed.spec("talk", "while read line; do echo got $line; done; echo end");
    let container = bed.container("talk", &spec).await?;
    let mut task = container.task(false, Vec::new(), bed.fifos("talk", true, true)?).await?;
    task.start().await?;
    let mut input = task.stdio.input.take().context("input")?;
    bed.daemon.kill().await?;
    input.write(b"one\n").await?;
    task.stdio.output.as_mut().context("output")?.until("got one\n").await?;
    bed.daemon.start(&bed.sandbox).await?;
    input.write(b"two\n").await?;
    drop(input);
    task.close_stdin().await?;
    assert_eq!(task.wait().await?.status, 0);
    assert_eq!(task.stdio.all_output().await?, "got one\ngot two\nend\n");
    bed.remove(&task).await
}

/// The status of a process that ended meanwhile is there, whether a client
/// asks for the state or waits.
async fn waiting_again_finds_the_exit(bed: &mut Bed) -> Result<()> {
    let mut task = bed.start_container("ended", &obedient(43)).await?;
    task.stdio.output.as_mut().context("output")?.until("ready").await?;
    bed.daemon.kill().await?;
    let before = SystemTime::now();
    proc::signal(task.pid, Signal::SIGTERM);
    gone(task.pid).await?;
    bed.daemon.start(&bed.sandbox).await?;
    let exit = task.wait().await?;
    assert_eq!(exit.status, 43);
    let state = task.state().await?;
    assert_eq!((state.status(), state.exit_status), (Status::Stopped, 43));
    ensure_between(exit.at.as_ref(), before, SystemTime::now())?;
    assert_eq!(task.delete().await?, exit);
    bed.remove_record("ended").await
}

/// Between create and start the daemon may change too.
async fn created_task_can_be_started_later(bed: &mut Bed) -> Result<()> {
    let mut task = bed.create("slow", "echo at last").await?;
    bed.crash().await?;
    assert_eq!(task.state().await?.status(), Status::Created);
    task.start().await?;
    assert_eq!(task.wait().await?.status, 0);
    assert_eq!(task.stdio.all_output().await?, "at last\n");
    bed.remove(&task).await
}

/// Frozen stays frozen.
async fn paused_task_stays_paused(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("ice", "sleep 1000").await?;
    task.pause().await?;
    bed.crash().await?;
    assert_eq!(task.state().await?.status(), Status::Paused);
    task.resume().await?;
    assert_eq!(task.state().await?.status(), Status::Running);
    bed.destroy(&task).await
}

/// An orderly end of the daemon is no end of containers either.
async fn sigterm_leaves_containers_alone(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("calm", "sleep 1000").await?;
    let status = bed.daemon.stop().await?;
    assert!(status.success(), "{status}");
    assert!(proc::is_alive(task.pid));
    assert_eq!(bed.sandbox.shims().len(), 1);
    bed.daemon.start(&bed.sandbox).await?;
    assert_eq!(task.state().await?.status(), Status::Running);
    bed.destroy(&task).await
}

/// The subscriber that was there before hears of the exit once, with its true
/// status and time. (The original daemon of this generation keeps the status
/// and tells nobody.)
async fn exit_during_downtime_is_kept_and_announced_once(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let mut tasks = Vec::new();
    for status in 60..65 {
        let mut task = bed.start_container(&format!("away-{status}"), &obedient(status)).await?;
        task.stdio.output.as_mut().context("output")?.until("ready").await?;
        tasks.push((status, task));
    }
    bed.daemon.kill().await?;
    let before = SystemTime::now();
    for (_, task) in &tasks {
        proc::signal(task.pid, Signal::SIGTERM);
        gone(task.pid).await?;
    }
    bed.daemon.start(&bed.sandbox).await?;
    for (status, task) in &tasks {
        let exit = events.exit_of(&task.container, &task.container).await?;
        assert_eq!((exit.status, exit.pid), (Some(*status), task.pid));
        ensure_between(exit.exited_at.as_ref(), before, SystemTime::now())?;
        let state = task.state().await?;
        assert_eq!((state.status(), state.exit_status), (Status::Stopped, *status));
        assert_eq!(state.exited_at, exit.exited_at);
    }
    for (_, task) in &tasks {
        bed.remove(task).await?;
        events.delete_of(&task.container).await?;
    }
    let all = events.all();
    order::check(&all)?;
    let ids = tasks.iter().map(|(_, task)| task.container.as_str());
    order::exactly_one_exit(&all, ids.map(|id| (id, id)))
}

/// Execs count as well.
async fn exec_exit_during_downtime_is_announced_once(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("host", "sleep 1000").await?;
    let mut exec = task.exec("job", &obedient(44), false, bed.fifos("job", false, true)?).await?;
    exec.start().await?;
    exec.stdio.output.as_mut().context("output")?.until("ready").await?;
    bed.daemon.kill().await?;
    proc::signal(exec.pid, Signal::SIGTERM);
    gone(exec.pid).await?;
    bed.daemon.start(&bed.sandbox).await?;
    let exit = events.exit_of("host", "job").await?;
    assert_eq!((exit.status, exit.pid), (Some(44), exec.pid));
    assert_eq!(exec.wait().await?.status, 44);
    exec.delete().await?;
    bed.destroy(&task).await?;
    events.delete_of("host").await?;
    order::check(&events.all())?;
    order::exactly_one_exit(&events.all(), [("host", "job"), ("host", "host")])
}

/// A client that knows nothing of positions in the stream, and subscribes a
/// moment after the daemon is back, still hears what happened.
async fn late_subscriber_hears_what_recovery_found(bed: &mut Bed) -> Result<()> {
    let mut task = bed.start_container("missed", &obedient(45)).await?;
    task.stdio.output.as_mut().context("output")?.until("ready").await?;
    bed.daemon.kill().await?;
    proc::signal(task.pid, Signal::SIGTERM);
    gone(task.pid).await?;
    bed.daemon.start(&bed.sandbox).await?;
    // By now recovery is over, so the exit has been published.
    assert_eq!(task.wait().await?.status, 45);
    let events = bed.events().await?;
    let exit = events.exit_of("missed", "missed").await?;
    assert_eq!((exit.status, exit.pid), (Some(45), task.pid));
    bed.remove(&task).await?;
    events.delete_of("missed").await?;
    order::exactly_one_exit(&events.all(), [("missed", "missed")])
}

/// Shim and container are gone when the daemon comes back: both ends are
/// announced, and nothing is left of the task.
async fn shim_that_died_during_downtime(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("orphan", "sleep 1000").await?;
    let other = bed.start_container("other", "sleep 1000").await?;
    let shim = bed.sandbox.shim_of("orphan").context("shim")?;
    bed.daemon.kill().await?;
    proc::signal(shim, Signal::SIGKILL);
    gone(shim).await?;
    bed.daemon.start(&bed.sandbox).await?;
    let exit = events.exit_of("orphan", "orphan").await?;
    assert_eq!((exit.status, exit.pid), (Some(137), task.pid));
    events.delete_of("orphan").await?;
    gone(task.pid).await?;
    bed.remove_record("orphan").await?;
    assert_eq!(other.state().await?.status(), Status::Running);
    bed.destroy(&other).await?;
    events.delete_of("other").await?;
    order::check(&events.all())
}

/// A stopped task is found by each start of the daemon; it is news only once.
async fn restart_after_restart_announces_nothing_twice(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let mut ended = bed.start_container("ended", &obedient(46)).await?;
    ended.stdio.output.as_mut().context("output")?.until("ready").await?;
    let lives = bed.start_container("lives", "sleep 1000").await?;
    bed.daemon.kill().await?;
    proc::signal(ended.pid, Signal::SIGTERM);
    proc::reaped(ended.pid).await?;
    for _ in 0..4 {
        bed.daemon.start(&bed.sandbox).await?;
        events.sync().await?;
        assert_eq!(ended.state().await?.status(), Status::Stopped);
        assert_eq!(lives.state().await?.status(), Status::Running);
        bed.daemon.kill().await?;
    }
    bed.daemon.start(&bed.sandbox).await?;
    bed.remove(&ended).await?;
    bed.destroy(&lives).await?;
    events.delete_of("ended").await?;
    events.delete_of("lives").await?;
    let all = events.all();
    order::check(&all)?;
    order::exactly_one_exit(&all, [("ended", "ended"), ("lives", "lives")])?;
    for topic in [Topic::Create, Topic::Start, Topic::Delete] {
        for id in ["ended", "lives"] {
            let count = all.iter().filter(|e| e.topic == topic && e.container == id).count();
            assert_eq!(count, 1, "{topic:?} of {id}");
        }
    }
    Ok(())
}

async fn gone(pid: u32) -> Result<()> {
    eventually(async || {
        ensure!(!proc::is_alive(pid), "process {pid} still lives");
        Ok(())
    })
    .await
}

fn ensure_between(time: Option<&Timestamp>, from: SystemTime, to: SystemTime) -> Result<()> {
    let time = SystemTime::try_from(*time.context("no time")?)?;
    ensure!((from..=to).contains(&time), "{time:?} is not between {from:?} and {to:?}");
    Ok(())
}
