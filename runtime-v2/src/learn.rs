//! What a shim that lives has to tell of what happened while the daemon was
//! away.

use std::{collections::HashMap, sync::Arc, time::Duration};

use shim_protocol::{
    Context, Error, ErrorKind, Id, Result, exits,
    proto::task_v2::{StateRequest, StateResponse},
};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::{
    Process, Status, Task,
    bundle::Bundle,
    cleanup,
    client::Connection,
    convert,
    manager::{Shared, blocking},
    task::{Life, Seen, SeenProcess},
};

/// How long a shim is left alone that gave no answer, or none that helps.
const PAUSE: Duration = Duration::from_secs(1);

/// What came of asking a shim.
pub(crate) enum Learned {
    /// The state of init, what is known of all processes, and whether it is a shim
    /// of our own kind.
    Known { status: Status, seen: Seen, is_ours: bool },
    /// It does not know the container: a create or delete was cut short.
    Stranger,
    /// It gave no answer, or none that makes sense; it may be back in a moment.
    Nothing,
}

/// Asks a shim for all it has to tell, and announces it.
pub(crate) async fn learn(shared: &Shared, connection: &Connection, bundle: &Bundle) -> Learned {
    let limit = shared.config.timeouts.load;
    let asked = match timeout(limit, ask_for_all(shared, connection, bundle)).await {
        Ok(asked) => asked,
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "ask shim for its processes")),
    };
    match asked {
        Ok((status, seen, is_ours)) => {
            announce_exits(shared, bundle, &seen).await;
            Learned::Known { status, seen, is_ours }
        }
        Err(e) if e.is_not_found() => Learned::Stranger,
        Err(error) => {
            warn!(id = %bundle.id(), error = %error.report(), "state is unknown");
            Learned::Nothing
        }
    }
}

/// # Errors
/// `NotFound` when the shim does not know the container.
async fn ask_for_all(
    shared: &Shared,
    connection: &Connection,
    bundle: &Bundle,
) -> Result<(Status, Seen, bool)> {
    let timeouts = &shared.config.timeouts;
    // First what the shim has to say, in its own order; other shims than ours
    // do not know the question.
    let flushed = connection.flush_outbox(&shared.config.ttrpc_address, timeouts.load).await;
    match &flushed {
        Ok(delivered) => debug!(id = %bundle.id(), delivered, "outbox is empty"),
        Err(error) => debug!(id = %bundle.id(), error = %error.report(), "no outbox"),
    }
    let init = ask(connection, bundle, None, timeouts.state).await?;
    let mut seen = Seen::init(init.pid);
    seen.init.exit = init.exit;
    // The process list would name those that live, too, but getting it costs a
    // run of the OCI runtime.
    for exec in noted_execs(bundle).await.into_keys() {
        match ask(connection, bundle, Some(&exec), timeouts.state).await {
            Ok(process) => {
                seen.execs.insert(exec, SeenProcess { pid: process.pid, exit: process.exit });
            }
            // Deleted, or it was never an exec.
            Err(e) if e.is_not_found() => debug!(%exec, error = %e.report(), "no such exec"),
            Err(e) => return Err(e),
        }
    }
    Ok((init.status, seen, flushed.is_ok()))
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
        let learned = match identified {
            Ok(()) => learn(shared, &connection, task.bundle_of()).await,
            Err(error) => {
                debug!(id = %task.id(), error = %error.report(), "shim does not come to");
                Learned::Nothing
            }
        };
        match learned {
            Learned::Known { seen, .. } => return task.learned(seen),
            Learned::Stranger => {
                let (owner, task) = (shared.clone(), task.clone());
                // The rest must not end halfway.
                let dismissal = async move { dismiss(&owner, &task, &connection).await };
                let _ = shared.work.spawn(dismissal).await;
                return;
            }
            // If it is dead, whoever supervises the task will say so.
            Learned::Nothing => sleep(PAUSE).await,
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
    task.end_of_use().await;
    let (bundle, seen) = (task.bundle_of(), task.seen());
    cleanup::dismiss(shared, bundle, task.runtime(), connection, seen).await;
    cleanup::forget(shared, task.bundle_of()).await;
    task.vanish();
}

/// Asks for the state of one process, and waits for nothing but the answer.
pub(crate) async fn ask(
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
    cleanup::announce_execs(shared, bundle, seen).await;
    if let Some(gone) = seen.init.ended() {
        cleanup::announce(shared, bundle, convert::exit_event(bundle.id(), None, gone)).await;
    }
}
