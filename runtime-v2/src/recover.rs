//! After a restart: takes over the shims that live, cleans up behind those
//! that do not, and announces what happened meanwhile.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shim_protocol::{Error, ErrorKind, Id, Result};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::task::AbortOnDrop;
use tracing::{debug, error, info, warn};

use crate::{
    Recovered, Status, Task,
    address::{Address, Bootstrap},
    bundle::{self, Bundle, Found, LeftImages},
    cleanup,
    client::Connection,
    learn::{self, Learned, learn, noted_execs, noted_init},
    log::ShimLog,
    manager::{Shared, blocking},
    strays, supervise,
    task::{Seen, SeenProcess},
};

/// How long the boot waits for a shim to say who it is. One that takes longer
/// has a task of unknown state until it answers.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many bundles are looked at together. Most of the time is waiting.
const PARALLEL: usize = 64;
/// The runtime of bundles that do not say which shim made them, and of most that
/// will be made.
const DEFAULT_RUNTIME: &str = "io.containerd.runc.v2";

/// What became of one bundle.
enum Outcome {
    /// Its init is alive, or its shim too busy to say.
    Live,
    /// Its init has ended.
    Stopped,
    /// It is not needed, and can be removed.
    Done(Bundle),
    /// What became of it cannot be told now.
    Left,
    /// Its shim lives, but does not know it: a create or delete was cut short.
    Stray(Bundle, PathBuf, Arc<Connection>, Option<AbortOnDrop>),
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
    let mut looked_at = HashMap::new();
    for bundle in bundles {
        let (shared, permits, folder) = (shared.clone(), permits.clone(), bundle.clone());
        let look = looking.spawn(async move {
            // Never closed, so there is a permit in the end.
            let _permit = permits.acquire().await;
            look_at(&shared, bundle).await
        });
        looked_at.insert(look.id(), folder);
    }
    let mut strays = Vec::new();
    while let Some(outcome) = looking.join_next_with_id().await {
        match outcome.map(|(_, outcome)| outcome) {
            Ok(Outcome::Live) => recovered.live += 1,
            Ok(Outcome::Stopped) => recovered.stopped += 1,
            Ok(Outcome::Done(bundle)) => remove(bundle, &mut recovered).await,
            Ok(Outcome::Left) => recovered.left += 1,
            Ok(Outcome::Stray(bundle, binary, connection, log)) => {
                strays.push((bundle, binary, connection, log));
            }
            Err(panic) => {
                error!(error = %panic, "a bundle was not recovered");
                if let Some(bundle) = looked_at.get(&panic.id()) {
                    shared.registry.leave(bundle, None);
                }
                recovered.left += 1;
            }
        }
    }
    // Only now is it known which shims hold other containers too.
    for (bundle, binary, connection, _log) in strays {
        cleanup::dismiss(shared, &bundle, &binary, &connection, Seen::default()).await;
        remove(bundle, &mut recovered).await;
    }
    let owner = shared.clone();
    let is_known = move |namespace: &Id, id: &Id| owner.registry.contains(namespace, id);
    let config = shared.config.clone();
    blocking(move || bundle::remove_unused_work(&config, is_known)).await?;
    shared.launcher.look_at(DEFAULT_RUNTIME);
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
    let notes = match read_notes(&bundle).await {
        Ok(notes) => notes,
        Err(error) => return leave(shared, bundle, None, &error),
    };
    let Notes { binary, bootstrap } = notes;
    let address = bootstrap.as_ref().and_then(|noted| noted.address.parse().ok());
    if binary.is_none() && bootstrap.is_none() {
        warn!(id = %bundle.id(), "bundle does not tell of any shim");
        return Outcome::Done(bundle);
    }
    let binary = match binary.map_or_else(|| shared.launcher.find(DEFAULT_RUNTIME), Ok) {
        Ok(binary) => binary,
        Err(error) => return leave(shared, bundle, address, &error),
    };
    // A shim that has just been started waits for a reader before it serves.
    let log = relay_log(shared, &bundle);
    match reach(shared, &bundle, bootstrap).await {
        Ok(connection) => take_over(shared, bundle, binary, connection, log).await,
        Err(error) if error.is_not_found() => {
            debug!(id = %bundle.id(), error = %error.report(), "shim is gone");
            bury(shared, bundle, &binary).await
        }
        Err(error) => leave(shared, bundle, address, &error),
    }
}

/// Touches nothing: its container may live, in the shim at `address`, if that
/// is known. Nobody else gets the id.
fn leave(shared: &Shared, bundle: Bundle, address: Option<Address>, error: &Error) -> Outcome {
    let id = bundle.id();
    error!(%id, error = %error.report(), "bundle is left for the next start of the daemon");
    shared.registry.leave(&bundle, address);
    Outcome::Left
}

fn relay_log(shared: &Shared, bundle: &Bundle) -> Option<AbortOnDrop> {
    match ShimLog::open(&bundle.log(), bundle.namespace(), bundle.id()) {
        Ok(log) => Some(AbortOnDrop::new(shared.relay(log))),
        Err(error) => {
            warn!(id = %bundle.id(), error = %error.report(), "messages of shim are lost");
            None
        }
    }
}

/// Which shim it is, and how to reach it.
struct Notes {
    binary: Option<PathBuf>,
    bootstrap: Option<Bootstrap>,
}

/// # Errors
/// When it cannot be told what the bundle says.
async fn read_notes(bundle: &Bundle) -> Result<Notes> {
    let folder = bundle.clone();
    let notes = blocking(move || Ok((folder.shim_binary(), folder.bootstrap())));
    let (binary, bootstrap) = notes.await?;
    Ok(Notes { binary: readable(bundle, binary)?, bootstrap: readable(bundle, bootstrap)? })
}

/// What a note in a bundle says. Garbage says nothing; a note that cannot be
/// read now, or that a newer daemon wrote, may say a lot.
fn readable<T>(bundle: &Bundle, note: Result<Option<T>>) -> Result<Option<T>> {
    match note {
        Err(e) if matches!(e.kind(), ErrorKind::DataLoss | ErrorKind::FailedPrecondition) => {
            warn!(id = %bundle.id(), error = %e.report(), "garbage in bundle");
            Ok(None)
        }
        note => note,
    }
}

/// Connects to a shim that listens, whether it answers or not.
///
/// # Errors
/// `NotFound` when it is gone; others when that cannot be told.
async fn reach(
    shared: &Shared,
    bundle: &Bundle,
    bootstrap: Option<Bootstrap>,
) -> Result<Arc<Connection>> {
    let bootstrap = bootstrap.unwrap_or_else(|| cleanup::customary(shared, bundle));
    let dialed = Connection::dial(&bootstrap, bundle.namespace(), &shared.closing).await;
    dialed.map(Arc::new)
}

/// Makes a task of a bundle whose shim lives.
async fn take_over(
    shared: &Arc<Shared>,
    bundle: Bundle,
    binary: PathBuf,
    connection: Arc<Connection>,
    log: Option<AbortOnDrop>,
) -> Outcome {
    let limit = shared.config.timeouts.load.min(PATIENCE);
    let learned = match connection.identify(bundle.id(), Some(limit)).await {
        Ok(()) => learn(shared, &connection, &bundle).await,
        Err(error) => {
            warn!(id = %bundle.id(), error = %error.report(), "shim does not answer");
            Learned::Nothing
        }
    };
    let (status, seen, hangs, is_ours) = match learned {
        Learned::Known { status, seen, is_ours } => (status, seen, false, is_ours),
        Learned::Stranger => return Outcome::Stray(bundle, binary, connection, log),
        Learned::Nothing if connection.is_closed() => return bury(shared, bundle, &binary).await,
        // Its container lives on, so it is not for us to end it.
        Learned::Nothing => {
            let pid = noted_init(&bundle).await.unwrap_or_default();
            (Status::Unknown, Seen::init(pid), true, false)
        }
    };
    shared.registry.note_address(&bundle, connection.address().clone());
    // With one that has ended they stay until it is deleted: nothing else may be
    // left of it.
    let left = match status {
        Status::Running | Status::Paused => left_images(&bundle, is_ours).await,
        _ => LeftImages::default(),
    };
    let log = log.map(AbortOnDrop::detach);
    let task = Task::new(shared, bundle, binary, connection, log, seen);
    task.forget(left);
    shared.registry.insert(task.clone());
    supervise::watch(shared, &task);
    if hangs {
        learn::watch(shared, &task);
    }
    match status {
        Status::Stopped => Outcome::Stopped,
        _ => Outcome::Live,
    }
}

/// Images that an earlier daemon has left with a task that runs. Other shims than
/// ours do not lock what they write to, and so it is left alone.
async fn left_images(bundle: &Bundle, is_ours: bool) -> LeftImages {
    let folder = bundle.clone();
    blocking(move || folder.left_images(is_ours)).await.unwrap_or_else(|error| {
        warn!(id = %bundle.id(), error = %error.report(), "images of checkpoints may stay");
        LeftImages::default()
    })
}

/// Cleans up behind a shim that died while the daemon was away, or that nobody
/// can reach any more.
async fn bury(shared: &Shared, bundle: Bundle, binary: &Path) -> Outcome {
    strays::end_all(&bundle, binary, shared.config.timeouts.cleanup).await;
    let noted = noted_execs(&bundle).await.into_iter();
    let seen = Seen {
        init: SeenProcess { pid: noted_init(&bundle).await.unwrap_or_default(), exit: None },
        execs: noted.map(|(exec, pid)| (exec, SeenProcess { pid, exit: None })).collect(),
    };
    cleanup::bury(shared, &bundle, binary, seen).await;
    Outcome::Done(bundle)
}
