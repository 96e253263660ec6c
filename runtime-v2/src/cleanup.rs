//! What is done when a shim is no longer needed, wanted or alive.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use shim_protocol::{
    Context, Error, ErrorKind, Id, Result,
    exits::{self, ExitRecord},
    proto::task_v2::{DeleteRequest, DeleteResponse},
};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::{
    Any, Deleted, Exit, Timeouts,
    address::{Address, Bootstrap},
    bundle::Bundle,
    cgroups,
    client::Connection,
    convert,
    manager::{Shared, blocking},
    strays,
    sys::ProcessHandle,
    task::Seen,
};

/// Exit status of a process that died with its shim: SIGKILL's.
const KILLED: u32 = 128 + 9;

/// How the processes of a task ended whose shim died.
pub(crate) struct Obituary {
    /// The end of init.
    pub(crate) init: Deleted,
    /// The ends of its execs.
    pub(crate) execs: HashMap<Id, Deleted>,
}

/// The longest that [`discard`] may take.
pub(crate) fn discard_limit(timeouts: &Timeouts) -> Duration {
    // Finding it; Delete, strays, the binary's `delete` and init; Shutdown, the
    // end, and the end by force.
    timeouts.load + timeouts.cleanup * 4 + timeouts.shutdown * 3
}

/// Lets a shim end, and waits for it, unless it holds other tasks. One that
/// does not end is killed.
pub(crate) async fn retire(shared: &Shared, bundle: &Bundle, connection: &Connection) {
    let limit = shared.config.timeouts.shutdown;
    let id = bundle.id();
    if let Err(error) = connection.shutdown(id, limit).await {
        warn!(%id, error = %error.report(), "shim does not shut down");
    }
    if shared.registry.is_shared(connection.address(), bundle) {
        return;
    }
    if timeout(limit, connection.ended()).await.is_err() {
        warn!(%id, "shim does not end: killed");
        end_by_force(shared, bundle, connection).await;
    }
    remove_socket(shared, connection.address()).await;
}

async fn end_by_force(shared: &Shared, bundle: &Bundle, connection: &Connection) {
    let id = bundle.id();
    if let Err(error) = connection.kill() {
        warn!(%id, error = %error.report(), "shim cannot be killed");
    }
    if timeout(shared.config.timeouts.shutdown, connection.ended()).await.is_err() {
        warn!(%id, "shim does not end");
    }
}

async fn remove_socket(shared: &Shared, address: &Address) {
    let limit = shared.config.timeouts.cleanup;
    match timeout(limit, address.remove_stale()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %error.report(), "socket of shim stays"),
        // Somebody who binds has been stopped halfway.
        Err(_) => warn!(%address, ?limit, "socket of shim stays: its folder is locked"),
    }
}

/// Gets rid of a container that was not, or not wholly, made, and of its shim.
/// Works with whatever is there.
///
/// # Errors
/// When the shim's binary cannot clean up.
pub(crate) async fn discard(
    shared: &Shared,
    bundle: &Bundle,
    binary: &Path,
    connection: Option<&Arc<Connection>>,
) -> Result<Deleted> {
    let found = match connection {
        Some(connection) => Some(connection.clone()),
        None => find_shim(shared, bundle).await,
    };
    let mut others = false;
    if let Some(connection) = found {
        dismantle(shared, bundle, &connection).await;
        others = shared.registry.is_shared(connection.address(), bundle);
    }
    if !others {
        // Whoever could not be reached, or is still on its way.
        strays::end_all(bundle, binary, shared.config.timeouts.cleanup).await;
    }
    delete_by_binary(shared, bundle, binary).await
}

async fn dismantle(shared: &Shared, bundle: &Bundle, connection: &Connection) {
    let limit = shared.config.timeouts.cleanup;
    let request = DeleteRequest { id: bundle.id().to_string(), ..Default::default() };
    let answer: Result<DeleteResponse> = connection.task("Delete", &request, Some(limit)).await;
    match answer {
        Err(e) if e.kind() == ErrorKind::DeadlineExceeded => {
            if !shared.registry.is_shared(connection.address(), bundle) {
                end_by_force(shared, bundle, connection).await;
                remove_socket(shared, connection.address()).await;
            }
        }
        // Most often it was never made.
        Err(error) => {
            debug!(id = %bundle.id(), error = %error.report(), "nothing to delete");
            retire(shared, bundle, connection).await;
        }
        Ok(_) => retire(shared, bundle, connection).await,
    }
}

/// Ends a task whose shim lives, but does not know the container: a create or
/// a delete was cut short. In the midst of a create there is nothing to tell,
/// in the midst of a delete the rest of it: the recorded ends, else those that
/// were `seen`.
pub(crate) async fn dismiss(
    shared: &Shared,
    bundle: &Bundle,
    binary: &Path,
    connection: &Arc<Connection>,
    mut seen: Seen,
) {
    info!(id = %bundle.id(), "shim does not know its container");
    seen.add_records(records(bundle).await);
    let folder = bundle.clone();
    let noted = blocking(move || Ok(folder.init_pid())).await.ok().flatten();
    let cleaned = discard(shared, bundle, binary, Some(connection)).await;
    let cleaned = cleaned.map_err(|error| {
        warn!(id = %bundle.id(), error = %error.report(), "shim is not cleaned up");
    });
    announce_execs(shared, bundle, &seen).await;
    if let Some(gone) = seen.init.ended() {
        return announce_end(shared, bundle, gone).await;
    }
    // The binary of a shim without records knows less than what was announced.
    if let Some(gone) = cleaned.ok().filter(|_| noted.is_some()) {
        announce(shared, bundle, convert::exit_event(bundle.id(), None, gone)).await;
    }
    close(shared, bundle).await;
}

/// Announces the end of a task of which nothing is known, unless that was done,
/// or nobody was told of its beginning.
async fn close(shared: &Shared, bundle: &Bundle) {
    if let Err(error) = shared.events.close_task(bundle.namespace(), bundle.id()).await {
        tracing::error!(id = %bundle.id(), error = %error.report(), "event is lost");
    }
}

/// Runs the `delete` command of a shim's binary, and removes what a runtime
/// that was killed halfway has left.
async fn delete_by_binary(shared: &Shared, bundle: &Bundle, binary: &Path) -> Result<Deleted> {
    let deleted = shared.launcher.delete(binary, bundle).await;
    if deleted.is_err() {
        let limit = shared.config.timeouts.cleanup;
        match timeout(limit, end_init(bundle)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(id = %bundle.id(), error = %error.report(), "init goes on");
            }
            Err(_) => warn!(id = %bundle.id(), ?limit, "init does not end"),
        }
    }
    let folder = bundle.clone();
    if let Err(error) = blocking(move || cgroups::remove(folder.path())).await {
        warn!(id = %bundle.id(), error = %error.report(), "cgroup stays");
    }
    deleted
}

/// Kills init by its noted pid, for nobody else does. As pids come back, it
/// must also be in the cgroup that the bundle names.
async fn end_init(bundle: &Bundle) -> Result<()> {
    let folder = bundle.clone();
    let Some(pid) = blocking(move || Ok(folder.init_pid())).await? else { return Ok(()) };
    // With the handle open, the pid cannot become another's.
    let found = ProcessHandle::find(pid).context("find init of", bundle.id())?;
    let Some(process) = found else { return Ok(()) };
    let folder = bundle.clone();
    if blocking(move || cgroups::contains(folder.path(), pid)).await? {
        process.kill().context("kill init of", bundle.id())?;
        process.ended().await.context("wait for init of", bundle.id())?;
    } else {
        debug!(id = %bundle.id(), pid, "the pid of init is another's now");
    }
    Ok(())
}

/// A shim that was started, but whose answer we did not get to note: it may
/// have noted its address by itself, or listens where shims do by custom.
async fn find_shim(shared: &Shared, bundle: &Bundle) -> Option<Arc<Connection>> {
    let folder = bundle.clone();
    let noted = blocking(move || folder.bootstrap()).await.ok().flatten();
    let bootstrap = noted.unwrap_or_else(|| customary(shared, bundle));
    let limit = shared.config.timeouts.load;
    let connection =
        Connection::open(&bootstrap, bundle.namespace(), bundle.id(), &shared.closing, limit);
    connection.await.ok().map(Arc::new)
}

/// Where the shim of a bundle listens by custom.
pub(crate) fn customary(shared: &Shared, bundle: &Bundle) -> Bootstrap {
    let grpc_address = &shared.config.grpc_address;
    let address = Address::customary(grpc_address, bundle.namespace(), bundle.id());
    Bootstrap::bare(&address.to_string())
}

/// Cleans up behind a dead shim through its binary's `delete`, and announces
/// the ends of what it held: execs first, then init, then the task's deletion.
/// A status that is on record counts, else it is SIGKILL's.
pub(crate) async fn bury(
    shared: &Shared,
    bundle: &Bundle,
    binary: &Path,
    mut seen: Seen,
) -> Obituary {
    let id = bundle.id();
    info!(namespace = %bundle.namespace(), %id, "cleaning up after a dead shim");
    let records = records(bundle).await;
    let cleaned = match delete_by_binary(shared, bundle, binary).await {
        Ok(cleaned) => Some(cleaned),
        Err(error) => {
            warn!(%id, error = %error.report(), "dead shim cannot be cleaned up");
            None
        }
    };
    let folder = bundle.clone();
    let noted = blocking(move || folder.bootstrap()).await.ok().flatten();
    let bootstrap = noted.unwrap_or_else(|| customary(shared, bundle));
    if let Ok(address) = bootstrap.address.parse() {
        remove_socket(shared, &address).await;
    }
    let killed = Exit { status: KILLED, at: SystemTime::now() };
    seen.add_records(records);
    // Without a pid it never ran.
    seen.execs.retain(|_, process| process.pid != 0);
    for process in seen.execs.values_mut() {
        process.exit.get_or_insert(killed);
    }
    if seen.init.pid == 0 {
        seen.init.pid = cleaned.map_or(0, |cleaned| cleaned.pid);
    }
    let exit = seen.init.exit.or(cleaned.map(|cleaned| cleaned.exit)).unwrap_or(killed);
    let init = Deleted { pid: seen.init.pid, exit };
    match init.pid {
        // It never ran either; but if it was to be restored, its beginning may
        // have been announced.
        0 => close(shared, bundle).await,
        _ => {
            announce_execs(shared, bundle, &seen).await;
            announce_end(shared, bundle, init).await;
        }
    }
    let execs = seen.ended_execs().into_iter().map(|(exec, gone)| (exec.clone(), gone)).collect();
    Obituary { init, execs }
}

/// The ends that are on record in a bundle.
pub(crate) async fn records(bundle: &Bundle) -> Vec<ExitRecord> {
    let folder = bundle.clone();
    blocking(move || exits::read_all(folder.path())).await.unwrap_or_else(|error| {
        warn!(id = %bundle.id(), error = %error.report(), "exit records are lost");
        Vec::new()
    })
}

/// Announces the exits of execs of which it is known how they ended.
pub(crate) async fn announce_execs(shared: &Shared, bundle: &Bundle, seen: &Seen) {
    for (exec, gone) in seen.ended_execs() {
        announce(shared, bundle, convert::exit_event(bundle.id(), Some(exec), gone)).await;
    }
}

/// Announces the exit of init and the deletion of the task.
pub(crate) async fn announce_end(shared: &Shared, bundle: &Bundle, init: Deleted) {
    announce(shared, bundle, convert::exit_event(bundle.id(), None, init)).await;
    announce(shared, bundle, convert::delete_event(bundle.id(), init)).await;
}

/// Hands an event to the daemon. There is nobody to whom a failure could be
/// reported, so it is logged.
pub(crate) async fn announce(
    shared: &Shared,
    bundle: &Bundle,
    event: Result<(&'static str, Any), Error>,
) {
    let published = match event {
        Ok((topic, event)) => shared.events.publish(bundle.namespace(), topic, event).await,
        Err(e) => Err(e),
    };
    if let Err(error) = published {
        tracing::error!(id = %bundle.id(), error = %error.report(), "event is lost");
    }
}

/// Removes the bundle and forgets the task.
pub(crate) async fn forget(shared: &Shared, bundle: &Bundle) {
    let folder = bundle.clone();
    if let Err(error) = blocking(move || folder.remove()).await {
        tracing::error!(id = %bundle.id(), error = %error.report(), "bundle stays");
    }
    shared.registry.remove(bundle);
}
