//! The order of events, hammered: processes that exit at once, execs in
//! containers that die.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{Bed, Events, Origin, Process, Stdio, Topic, order, within};
use tokio::task::JoinSet;
use tonic::Code;

tests::every_pairing!(
    processes_that_exit_at_once,
    execs_that_exit_at_once,
    execs_that_live_when_init_dies,
    exec_in_a_dying_container,
);

/// Containers in flight at a time: more than the machine has processors.
const WIDTH: usize = 8;

/// Init is gone before its start can have been announced.
async fn processes_that_exit_at_once(bed: &mut Bed) -> Result<()> {
    const CONTAINERS: usize = 40;
    let events = bed.events().await?;
    let ids: Vec<_> = (0..CONTAINERS).map(|number| format!("quick-{number}")).collect();
    for group in ids.chunks(WIDTH) {
        let mut lives = JoinSet::new();
        for (id, status) in group.iter().zip(0..) {
            let spec = bed.spec(id, &format!("exit {status}"));
            let container = bed.container(id, &spec).await?;
            lives.spawn(async move {
                let mut task = container.task(false, Vec::new(), Stdio::null()).await?;
                task.start().await?;
                let exit = task.wait().await?;
                ensure!(exit.status == status, "{exit:?}, not {status}");
                ensure!(task.delete().await? == exit, "delete differs from wait");
                container.delete().await?;
                anyhow::Ok(())
            });
        }
        for result in lives.join_all().await {
            result?;
        }
    }
    for id in &ids {
        events.delete_of(id).await?;
    }
    let all = events.all();
    order::check(&all)?;
    order::exactly_one_exit(&all, ids.iter().map(|id| (id.as_str(), id.as_str())))
}

/// The same for execs: start is announced, then one exit with the true status.
async fn execs_that_exit_at_once(bed: &mut Bed) -> Result<()> {
    const EXECS: u32 = 40;
    let events = bed.events().await?;
    let task = bed.start_container("host", "sleep 1000").await?;
    let ids: Vec<_> = (0..EXECS).map(|number| format!("exec-{number}")).collect();
    for group in ids.chunks(WIDTH) {
        let mut lives = JoinSet::new();
        for (id, status) in group.iter().zip(0..) {
            let mut exec = task.exec(id, &format!("exit {status}"), false, Stdio::null()).await?;
            lives.spawn(async move {
                exec.start().await?;
                let exit = exec.wait().await?;
                ensure!(exit.status == status, "{exit:?}, not {status}");
                exec.delete().await?;
                anyhow::Ok(())
            });
        }
        for result in lives.join_all().await {
            result?;
        }
    }
    bed.destroy(&task).await?;
    events.delete_of("host").await?;
    let all = events.all();
    order::check(&all)?;
    order::exactly_one_exit(&all, ids.iter().map(|id| ("host", id.as_str())))
}

/// The kernel kills the execs of a pid namespace together with init; their
/// exits come first, whichever the shim heard of first.
async fn execs_that_live_when_init_dies(bed: &mut Bed) -> Result<()> {
    const ROUNDS: usize = 8;
    const EXECS: usize = 6;
    let events = bed.events().await?;
    let mut processes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let id = format!("doomed-{round}");
        let task = bed.start_container(&id, "sleep 1000").await?;
        for number in 0..EXECS {
            let exec = format!("{id}-exec-{number}");
            let mut process = task.exec(&exec, "sleep 1000", false, Stdio::null()).await?;
            process.start().await?;
            processes.entry(id.clone()).or_default().push(exec);
        }
        task.kill(Signal::SIGKILL).await?;
        assert_eq!(task.wait().await?.status, 137);
        for exec in &processes[&id] {
            let exit = events.exit_of(&id, exec).await?;
            assert_eq!(exit.status, Some(137), "{exit:?}");
        }
        bed.remove(&task).await?;
        events.delete_of(&id).await?;
    }
    let all = events.all();
    if bed.daemon.pairing().shim == Origin::Ours {
        order::check(&all)?;
    }
    // The original shim announces exits in the order in which it reaped, so
    // init may come first; our daemon passes on what it is told.
    for (id, execs) in &processes {
        order::exactly_one_exit(&all, execs.iter().map(|exec| (id.as_str(), exec.as_str())))?;
        order::exactly_one_exit(&all, [(id.as_str(), id.as_str())])?;
    }
    Ok(())
}

/// Exec and start while init dies: either it works, and then there is an exit,
/// or the error says what is wrong. Never a hang.
async fn exec_in_a_dying_container(bed: &mut Bed) -> Result<()> {
    const ROUNDS: usize = 12;
    let events = bed.events().await?;
    for round in 0..ROUNDS {
        let id = format!("dying-{round}");
        let task = bed.start_container(&id, "sleep 1000").await?;
        let killer = task.kill(Signal::SIGKILL);
        let starter = async {
            let mut started = Vec::new();
            for number in 0..4 {
                let exec = format!("{id}-exec-{number}");
                match start_exec(&task, &exec).await {
                    Ok(_) => started.push(exec),
                    Err(status) => check_refusal(bed, &status)?,
                }
            }
            anyhow::Ok(started)
        };
        let (killed, started) =
            within("exec in a dying container", async { tokio::join!(killer, starter) }).await?;
        killed.context("kill")?;
        assert_eq!(task.wait().await?.status, 137);
        for exec in &started? {
            events.exit_of(&id, exec).await?;
        }
        // Now it is dead for certain.
        let Err(status) = start_exec(&task, "late").await else {
            anyhow::bail!("an exec started in a dead container")
        };
        check_refusal(bed, &status)?;
        bed.remove(&task).await?;
        events.delete_of(&id).await?;
    }
    check_exits(bed, &events)
}

async fn start_exec(task: &Process, id: &str) -> Result<Process, tonic::Status> {
    let mut exec = task.exec(id, "sleep 1000", false, Stdio::null()).await?;
    exec.start().await?;
    Ok(exec)
}

/// The class of the error, where our shim decides it. The original passes on
/// what runc wrote, without a class.
fn check_refusal(bed: &Bed, status: &tonic::Status) -> Result<()> {
    if bed.daemon.pairing().shim == Origin::Ours {
        let expected = [Code::FailedPrecondition, Code::NotFound];
        ensure!(expected.contains(&status.code()), "{status:?}");
    }
    ensure!(!status.message().is_empty(), "an error that says nothing");
    Ok(())
}

/// Every process that was announced as started has one exit.
fn check_exits(bed: &Bed, events: &Events) -> Result<()> {
    let all = events.all();
    let started = all
        .iter()
        .filter(|event| matches!(event.topic, Topic::Start | Topic::ExecStarted))
        .map(|event| (event.container.as_str(), event.process.as_str()));
    order::exactly_one_exit(&all, started)?;
    if bed.daemon.pairing().shim == Origin::Ours { order::check(&all) } else { Ok(()) }
}
