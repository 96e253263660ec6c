//! After a restart: takes over the shims that live, cleans up behind those
//! that do not, and announces what happened meanwhile.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use shim_protocol::{
    Context, Error, Id, Result, exits,
    proto::task_v2::{StateRequest, StateResponse},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::{debug, error, info, warn};

use crate::{
    Deleted, Process, Recovered, Status, Task,
    address::Bootstrap,
    bundle::{self, Bundle, Found},
    cleanup,
    client::Connection,
    convert,
    log::ShimLog,
    manager::{Shared, blocking},
    strays, supervise,
    task::{Seen, SeenProcess},
};

/// How many bundles are looked at together. Most of the time is waiting.
const PARALLEL: usize = 64;
/// The runtime of bundles that do not say which shim made them.
const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// What became of one bundle.
enum Outcome {
    /// Its init is alive, or its shim too busy to say.
    Live,
    /// Its init has ended.
    Stopped,
    /// It is not needed, and can be removed.
    Done(Bundle),
    /// Its shim lives, but does not know it: a create or delete was cut short.
    Stray(Bundle, PathBuf, Arc<Connection>),
}

/// Looks at all bundles at once, but not at too many.
///
/// # Errors
/// When the folder of bundles cannot be read.
pub(crate) async fn recover(shared: &Arc<Shared>) -> Result<Recovered> {
    let config = shared.config.clone();
    let Found { bundles, others } = blocking(move || bundle::find_all(&config)).await?;
    let mut recovered = Recovered { left: others, ..Default::default() };
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut looking = JoinSet::new();
    for bundle in bundles {
        let (shared, permits) = (shared.clone(), permits.clone());
        looking.spawn(async move {
            // Never closed, so there is a permit in the end.
            let _permit = permits.acquire().await;
            look_at(&shared, bundle).await
        });
    }
    let mut strays = Vec::new();
    while let Some(outcome) = looking.join_next().await {
        match outcome {
            Ok(Outcome::Live) => recovered.live += 1,
            Ok(Outcome::Stopped) => recovered.stopped += 1,
            Ok(Outcome::Done(bundle)) => remove(bundle, &mut recovered).await,
            Ok(Outcome::Stray(bundle, binary, connection)) => {
                strays.push((bundle, binary, connection));
            }
            Err(panic) => {
                error!(error = %panic, "a bundle was not recovered");
                recovered.left += 1;
            }
        }
    }
    // Only now is it known which shims hold other containers too.
    for (bundle, binary, connection) in strays {
        dismiss(shared, &bundle, &binary, &connection).await;
        remove(bundle, &mut recovered).await;
    }
    let owner = shared.clone();
    let is_known = move |namespace: &Id, id: &Id| owner.registry.contains(namespace, id);
    let config = shared.config.clone();
    blocking(move || bundle::remove_unused_work(&config, is_known)).await?;
    info!(?recovered, "took over what an earlier daemon left");
    Ok(recovered)
}

async fn remove(bundle: Bundle, recovered: &mut Recovered) {
    let id = bundle.id().clone();
    match blocking(move || bundle.remove()).await {
        Ok(()) => recovered.cleaned += 1,
        Err(error) => {
            warn!(%id, error = %error.report(), "bundle stays");
            recovered.left += 1;
        }
    }
}

async fn look_at(shared: &Arc<Shared>, bundle: Bundle) -> Outcome {
    let (binary, bootstrap) = read_notes(&bundle).await;
    let told = binary.is_some() || bootstrap.is_some();
    let binary = binary.or_else(|| shared.launcher.find(DEFAULT_RUNTIME).ok());
    let (true, Some(binary)) = (told, binary) else {
        warn!(id = %bundle.id(), "bundle does not tell of any shim");
        return Outcome::Done(bundle);
    };
    let heard_of = bootstrap.is_some();
    match reach(shared, &bundle, bootstrap).await {
        Some(reached) => take_over(shared, bundle, binary, reached).await,
        None => {
            if !heard_of {
                strays::end_all(&bundle, &binary, shared.config.timeouts.cleanup).await;
            }
            bury(shared, bundle, &binary).await
        }
    }
}

/// Which shim it is, and how to reach it.
async fn read_notes(bundle: &Bundle) -> (Option<PathBuf>, Option<Bootstrap>) {
    let folder = bundle.clone();
    let notes = blocking(move || Ok((folder.shim_binary(), folder.bootstrap()))).await;
    let (binary, bootstrap) = notes.unwrap_or_else(|e| (Err(e), Ok(None)));
    (readable(bundle, binary), readable(bundle, bootstrap))
}

/// What a note in a bundle says; one that cannot be read says nothing.
fn readable<T>(bundle: &Bundle, note: Result<Option<T>>) -> Option<T> {
    note.unwrap_or_else(|error| {
        warn!(id = %bundle.id(), error = %error.report(), "note in bundle cannot be read");
        None
    })
}

/// A shim that listens.
struct Reached {
    connection: Connection,
    /// It answers, too.
    answers: bool,
}

async fn reach(shared: &Shared, bundle: &Bundle, bootstrap: Option<Bootstrap>) -> Option<Reached> {
    let bootstrap = bootstrap.unwrap_or_else(|| cleanup::customary(shared, bundle));
    let dialed = Connection::dial(&bootstrap, bundle.namespace(), &shared.closing).await;
    let mut connection = match dialed {
        Ok(connection) => connection,
        Err(error) => {
            debug!(id = %bundle.id(), error = %error.report(), "shim is gone");
            return None;
        }
    };
    match connection.identify(bundle.id(), shared.config.timeouts.load).await {
        Ok(()) => Some(Reached { connection, answers: true }),
        Err(_) if connection.is_closed() => None,
        // Its container lives on, so it is not for us to end it.
        Err(error) => {
            warn!(id = %bundle.id(), error = %error.report(), "shim hangs");
            Some(Reached { connection, answers: false })
        }
    }
}

/// Makes a task of a bundle whose shim lives.
async fn take_over(
    shared: &Arc<Shared>,
    bundle: Bundle,
    binary: PathBuf,
    reached: Reached,
) -> Outcome {
    let Reached { connection, answers } = reached;
    let mut status = Status::Unknown;
    let mut seen = Seen::init(noted_init(&bundle).await.unwrap_or_default());
    if answers {
        let timeouts = &shared.config.timeouts;
        // First what the shim has to say, in its own order; other shims than
        // ours do not know the question.
        let ttrpc_address = &shared.config.ttrpc_address;
        match connection.flush_outbox(ttrpc_address, timeouts.load).await {
            Ok(delivered) => debug!(id = %bundle.id(), delivered, "outbox is empty"),
            Err(error) => debug!(id = %bundle.id(), error = %error.report(), "no outbox"),
        }
        match ask(shared, &connection, &bundle, None).await {
            Ok(process) => {
                status = process.status;
                seen.init = SeenProcess { pid: process.pid, exit: process.exit };
                seen.execs = ask_for_execs(shared, &connection, &bundle).await;
            }
            Err(e) if e.is_not_found() => {
                return Outcome::Stray(bundle, binary, Arc::new(connection));
            }
            Err(_) if connection.is_closed() => return bury(shared, bundle, &binary).await,
            Err(error) => warn!(id = %bundle.id(), error = %error.report(), "state is unknown"),
        }
    }
    announce_exits(shared, &bundle, &seen).await;
    let log = ShimLog::open(&bundle.log(), bundle.namespace(), bundle.id());
    let log = log.map(|log| shared.relay(log)).map_err(|error| {
        warn!(id = %bundle.id(), error = %error.report(), "messages of shim are lost");
    });
    shared.registry.note_address(&bundle, connection.address().clone());
    let task = Task::new(shared, bundle, binary, Arc::new(connection), log.ok(), seen);
    shared.registry.insert(task.clone());
    supervise::watch(shared, &task);
    match status {
        Status::Stopped => Outcome::Stopped,
        _ => Outcome::Live,
    }
}

async fn ask(
    shared: &Shared,
    connection: &Connection,
    bundle: &Bundle,
    exec: Option<&Id>,
) -> Result<Process> {
    let request = StateRequest {
        id: bundle.id().to_string(),
        exec_id: exec.map(Id::to_string).unwrap_or_default(),
        ..Default::default()
    };
    let limit = shared.config.timeouts.state;
    let answer: StateResponse = connection.task("State", &request, Some(limit)).await?;
    Ok(convert::process_from_wire(bundle.id(), exec, bundle.path(), answer))
}

/// Asks for each exec that the bundle has a note of. The process list would
/// name those that live, too, but getting it costs a run of the OCI runtime.
async fn ask_for_execs(
    shared: &Shared,
    connection: &Connection,
    bundle: &Bundle,
) -> HashMap<Id, SeenProcess> {
    let mut execs = HashMap::new();
    for exec in noted_execs(bundle).await.into_keys() {
        match ask(shared, connection, bundle, Some(&exec)).await {
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
async fn noted_init(bundle: &Bundle) -> Option<u32> {
    let folder = bundle.clone();
    blocking(move || Ok(folder.init_pid())).await.ok().flatten()
}

/// Execs that left something in the bundle, with their pids.
async fn noted_execs(bundle: &Bundle) -> HashMap<Id, u32> {
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

/// Cleans up behind a shim that died while the daemon was away.
async fn bury(shared: &Shared, bundle: Bundle, binary: &Path) -> Outcome {
    let noted = noted_execs(&bundle).await.into_iter();
    let seen = Seen {
        init: SeenProcess { pid: noted_init(&bundle).await.unwrap_or_default(), exit: None },
        execs: noted.map(|(exec, pid)| (exec, SeenProcess { pid, exit: None })).collect(),
    };
    cleanup::bury(shared, &bundle, binary, seen).await;
    Outcome::Done(bundle)
}

/// Ends what was begun when the daemon died: in the middle of a create there
/// is nothing to tell, in the middle of a delete the rest of it.
async fn dismiss(shared: &Shared, bundle: &Bundle, binary: &Path, connection: &Arc<Connection>) {
    info!(id = %bundle.id(), "shim does not know its container");
    let folder = bundle.clone();
    let record = blocking(move || exits::read(folder.path(), None)).await.unwrap_or_default();
    let existed = record.is_some() || noted_init(bundle).await.is_some();
    match cleanup::discard(shared, bundle, binary, Some(connection)).await {
        Ok(cleaned) if existed => {
            let gone = record.map_or(cleaned, |record| Deleted {
                pid: record.pid,
                exit: crate::Exit { status: record.status, at: record.at },
            });
            cleanup::announce_end(shared, bundle, gone).await;
        }
        Ok(_) => {}
        Err(error) => warn!(id = %bundle.id(), error = %error.report(), "shim is not cleaned up"),
    }
}
