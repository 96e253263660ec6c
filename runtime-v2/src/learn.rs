//! What a shim that lives has to tell of what happened while the daemon was
//! away.

use std::{collections::HashMap, sync::Arc, time::Duration};

use shim_protocol::{
    Context, Error, ErrorKind, Id, Result, exits,
    proto::task_v2::{StateRequest, StateResponse},
};
use tracing::{debug, warn};

use crate::{
    Deleted, Process, Status, Task,
    bundle::Bundle,
    cleanup,
    client::Connection,
    convert,
    manager::{Shared, blocking},
    task::{Life, Seen, SeenProcess},
};

/// What came of asking a shim.
pub(crate) enum Learned {
    /// The state of init, and what is known of all processes.
    Known(Status, Seen),
    /// It does not know the container: a create or delete was cut short.
    Stranger,
    /// It gave no answer, or none that makes sense; it may be back in a moment.
    Nothing,
}

/// Asks a shim for all it has to tell, and announces it.
pub(crate) async fn learn(shared: &Shared, connection: &Connection, bundle: &Bundle) -> Learned {
    let timeouts = &shared.config.timeouts;
    // First what the shim has to say, in its own order; other shims than ours
    // do not know the question.
    match connection.flush_outbox(&shared.config.ttrpc_address, timeouts.load).await {
        Ok(delivered) => debug!(id = %bundle.id(), delivered, "outbox is empty"),
        Err(error) => debug!(id = %bundle.id(), error = %error.report(), "no outbox"),
    }
    let mut seen = Seen::init(noted_init(bundle).await.unwrap_or_default());
    let mut status = Status::Unknown;
    match ask(connection, bundle, None, timeouts.state).await {
        Ok(process) => {
            status = process.status;
            seen.init = SeenProcess { pid: process.pid, exit: process.exit };
            seen.execs = ask_for_execs(connection, bundle, timeouts.state).await;
        }
        Err(e) if e.is_not_found() => return Learned::Stranger,
        Err(error) => {
            warn!(id = %bundle.id(), error = %error.report(), "state is unknown");
            if connection.is_closed() || error.kind() == ErrorKind::DeadlineExceeded {
                return Learned::Nothing;
            }
        }
    }
    announce_exits(shared, bundle, &seen).await;
    Learned::Known(status, seen)
}

/// Waits, in the background, until a shim answers that hangs while the daemon
/// boots, and makes up for what could not be done then. Its task's state is
/// unknown so long.
pub(crate) fn watch(shared: &Arc<Shared>, task: &Arc<Task>) {
    let (owner, task) = (shared.clone(), task.clone());
    shared.watches.spawn(async move {
        let closing = owner.closing.clone();
        closing.run_until_cancelled(make_up(&owner, &task)).await;
    });
}

async fn make_up(shared: &Arc<Shared>, task: &Arc<Task>) {
    let mut life = task.life();
    loop {
        let Life::Live(connection) = life.borrow_and_update().clone() else { return };
        let identified = tokio::select! {
            identified = connection.identify(task.id(), None) => identified,
            _ = life.changed() => continue,
        };
        if let Err(error) = identified {
            debug!(id = %task.id(), error = %error.report(), "shim does not come to");
            // Whoever supervises the task says what becomes of it.
            match life.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        match learn(shared, &connection, task.bundle_of()).await {
            Learned::Known(_, seen) => return task.learned(seen),
            Learned::Stranger => {
                let (owner, task) = (shared.clone(), task.clone());
                // The rest must not end halfway.
                let dismissal = async move { dismiss(&owner, &task, &connection).await };
                let _ = shared.work.spawn(dismissal).await;
                return;
            }
            Learned::Nothing => {}
        }
    }
}

/// There never was, or is no more, a container for the task.
async fn dismiss(shared: &Shared, task: &Task, connection: &Arc<Connection>) {
    let _ending = task.end_of_life().await;
    // A delete may have been faster.
    if !matches!(&*task.life().borrow(), Life::Live(_)) {
        return;
    }
    cleanup::dismiss(shared, task.bundle_of(), task.runtime(), connection).await;
    cleanup::forget(shared, task.bundle_of()).await;
    task.vanish();
}

async fn ask(
    connection: &Connection,
    bundle: &Bundle,
    exec: Option<&Id>,
    limit: Duration,
) -> Result<Process> {
    let request = StateRequest {
        id: bundle.id().to_string(),
        exec_id: exec.map(Id::to_string).unwrap_or_default(),
        ..Default::default()
    };
    let answer: StateResponse = connection.task("State", &request, Some(limit)).await?;
    Ok(convert::process_from_wire(bundle.id(), exec, bundle.path(), answer))
}

/// Asks for each exec that the bundle has a note of. The process list would
/// name those that live, too, but getting it costs a run of the OCI runtime.
async fn ask_for_execs(
    connection: &Connection,
    bundle: &Bundle,
    limit: Duration,
) -> HashMap<Id, SeenProcess> {
    let mut execs = HashMap::new();
    for exec in noted_execs(bundle).await.into_keys() {
        match ask(connection, bundle, Some(&exec), limit).await {
            Ok(process) => {
                execs.insert(exec, SeenProcess { pid: process.pid, exit: process.exit });
            }
            // Deleted, or it was never an exec.
            Err(error) => debug!(%exec, error = %error.report(), "no such exec"),
        }
    }
    execs
}

/// Pid of init, if there was one.
pub(crate) async fn noted_init(bundle: &Bundle) -> Option<u32> {
    let folder = bundle.clone();
    blocking(move || Ok(folder.init_pid())).await.ok().flatten()
}

/// Execs that left something in the bundle, with their pids.
pub(crate) async fn noted_execs(bundle: &Bundle) -> HashMap<Id, u32> {
    let folder = bundle.clone();
    let noted = blocking(move || {
        let mut noted: HashMap<Id, u32> = folder.noted_execs()?.into_iter().collect();
        let records = exits::read_all(folder.path())?;
        noted.extend(records.into_iter().filter_map(|r| Some((r.exec_id?, r.pid))));
        Ok(noted)
    });
    noted.await.context("look for execs of", bundle.id()).unwrap_or_else(|error: Error| {
        warn!(error = %error.report(), "execs are unknown");
        HashMap::new()
    })
}

/// Announces the exits that happened while the daemon was away. Which of them
/// it had announced before that, it remembers itself.
async fn announce_exits(shared: &Shared, bundle: &Bundle, seen: &Seen) {
    let gone = |process: &SeenProcess| process.exit.map(|exit| Deleted { pid: process.pid, exit });
    let mut execs: Vec<_> =
        seen.execs.iter().filter_map(|(exec, process)| Some((exec, gone(process)?))).collect();
    execs.sort_by_key(|(_, gone)| gone.exit.at);
    for (exec, gone) in execs {
        let event = convert::exit_event(bundle.id(), Some(exec), gone);
        cleanup::announce(shared, bundle, event).await;
    }
    if let Some(gone) = gone(&seen.init) {
        cleanup::announce(shared, bundle, convert::exit_event(bundle.id(), None, gone)).await;
    }
}
