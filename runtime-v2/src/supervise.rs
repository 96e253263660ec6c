//! Watches over the connection to each shim.

use std::{sync::Arc, time::Duration};

use shim_protocol::ErrorKind;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::{
    Task,
    address::Bootstrap,
    cleanup,
    client::Connection,
    manager::{Shared, blocking},
    strays,
    task::Life,
};

/// How long to wait between attempts to reach a shim again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Watches a task until it is deleted, its shim dies, or the daemon lets go.
pub(crate) fn watch(shared: &Arc<Shared>, task: &Arc<Task>) {
    let (owner, task) = (shared.clone(), task.clone());
    shared.watches.spawn(async move {
        let closing = owner.closing.clone();
        closing.run_until_cancelled(supervise(&owner, &task)).await;
    });
}

async fn supervise(shared: &Arc<Shared>, task: &Arc<Task>) {
    let mut life = task.life();
    loop {
        let Life::Live(connection) = life.borrow_and_update().clone() else { return };
        tokio::select! {
            () = connection.closed() => {}
            _ = life.changed() => continue,
        }
        // A deleted task's shim ends by itself.
        if !matches!(&*life.borrow(), Life::Live(_)) {
            return;
        }
        warn!(namespace = %task.namespace(), id = %task.id(), "connection to shim lost");
        let lost = connection;
        match reconnect(shared, task, &lost).await {
            Some(connection) => {
                info!(namespace = %task.namespace(), id = %task.id(), "shim is back");
                task.revive(&lost, connection);
            }
            None => {
                // The rest must not end halfway.
                let (owner, task) = (shared.clone(), task.clone());
                let _ = shared.work.spawn(async move { bury(&owner, &task, &lost).await }).await;
                return;
            }
        }
    }
}

/// Tries to reach the shim again while its process lives. One that lives, but
/// neither listens nor answers within the limit, is killed: nobody could steer
/// it. What keeps us from asking at all, such as a want of descriptors, says
/// nothing of the shim, and is waited out.
async fn reconnect(
    shared: &Arc<Shared>,
    task: &Task,
    lost: &Connection,
) -> Option<Arc<Connection>> {
    let limit = shared.config.timeouts.load;
    let deadline = Instant::now() + limit;
    let bundle = task.bundle_of().clone();
    let bootstrap = blocking(move || bundle.bootstrap()).await.ok().flatten();
    let bootstrap = bootstrap.unwrap_or_else(|| Bootstrap::bare(&lost.address().to_string()));
    loop {
        let attempt =
            Connection::open(&bootstrap, task.namespace(), task.id(), &shared.closing, limit);
        let error = match attempt.await {
            Ok(connection) => return Some(Arc::new(connection)),
            Err(error) => error,
        };
        debug!(id = %task.id(), error = %error.report(), "shim is not back");
        let judged = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DeadlineExceeded);
        // Without its process, that nobody listens is all there is to go by.
        if error.is_not_found() && !lost.knows_process() {
            return None;
        }
        if judged && Instant::now() >= deadline {
            break;
        }
        tokio::select! {
            () = lost.ended(), if lost.knows_process() => return None,
            () = sleep(RETRY_PAUSE) => {}
        }
    }
    warn!(id = %task.id(), "shim lives but cannot be reached: killed");
    if let Err(error) = lost.kill() {
        warn!(id = %task.id(), error = %error.report(), "shim cannot be killed");
    }
    if timeout(shared.config.timeouts.shutdown, lost.ended()).await.is_err() {
        warn!(id = %task.id(), "shim does not end");
    }
    None
}

/// Cleans up behind a dead shim, and says so to everybody who waits.
async fn bury(shared: &Shared, task: &Task, lost: &Connection) {
    let _ending = task.end_of_life().await;
    // A delete may have been faster.
    if !matches!(&*task.life().borrow(), Life::Live(_)) {
        return;
    }
    // Should it live after all, and nobody know which process it is.
    if !lost.knows_process() {
        strays::end_all(task.bundle_of(), task.runtime(), shared.config.timeouts.cleanup).await;
    }
    let obituary = cleanup::bury(shared, task.bundle_of(), task.runtime(), task.seen()).await;
    // Whoever is told that the task is gone may use its id again; but how it ended
    // is not kept back because of who puts its checkpoint away.
    if task.is_used() {
        task.die(obituary);
        task.end_of_use().await;
        return cleanup::forget(shared, task.bundle_of()).await;
    }
    task.end_of_use().await;
    cleanup::forget(shared, task.bundle_of()).await;
    task.die(obituary);
}
