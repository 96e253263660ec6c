//! Making a task: a sequence of steps, each with its undo.

use std::sync::{Arc, OnceLock};

use shim_protocol::{
    Context, Error, ErrorKind, Result,
    proto::task_v2::{CreateTaskRequest, CreateTaskResponse},
};

use crate::{
    Checkpoint, CreateTask, Task, Timeouts,
    bundle::Bundle,
    cleanup,
    client::Connection,
    convert,
    launch::Started,
    log::ShimLog,
    manager::{Shared, blocking},
    supervise,
    task::Seen,
    undo::Undo,
};

/// Makes a task. Any failure undoes all steps before it is handed back.
///
/// # Errors
/// See [`Manager::create`](crate::Manager::create).
pub(crate) async fn create(shared: &Arc<Shared>, request: CreateTask) -> Result<Arc<Task>> {
    let bundle = Bundle::at(&shared.config, &request.namespace, &request.id);
    shared.registry.reserve(&bundle)?;
    let mut undo = Undo::new(&shared.work, cleanup::discard_limit(&shared.config.timeouts));
    undo.push("reserve", {
        let (shared, bundle) = (shared.clone(), bundle.clone());
        async move {
            shared.registry.remove(&bundle);
            Ok(())
        }
    });
    let made = steps(shared, request, &bundle, &mut undo).await;
    undo.settle(made).await
}

async fn steps(
    shared: &Arc<Shared>,
    mut request: CreateTask,
    bundle: &Bundle,
    undo: &mut Undo,
) -> Result<Arc<Task>> {
    let binary = shared.launcher.find(&request.runtime).map_err(|e| match e.is_not_found() {
        // It must not look as if there were no such container.
        true => e.with_kind(ErrorKind::FailedPrecondition),
        false => e,
    })?;

    let spec = std::mem::take(&mut request.spec);
    let (folder, program) = (bundle.clone(), binary.clone());
    blocking(move || folder.create(&spec, &program)).await?;
    let folder = bundle.clone();
    undo.push("bundle", async move { blocking(move || folder.remove()).await });
    // The shim may have announced the task before it failed to answer. While
    // the id and its bundle are ours, no other task can be meant.
    undo.push("announcement", {
        let (shared, bundle) = (shared.clone(), bundle.clone());
        async move { shared.events.close_task(bundle.namespace(), bundle.id()).await }
    });
    let log = ShimLog::open(&bundle.log(), bundle.namespace(), bundle.id())?;
    let log = shared.relay(log);
    undo.push("log", {
        let log = log.clone();
        async move {
            log.abort();
            Ok(())
        }
    });

    // A start that fails may have left a shim behind.
    let connected: Arc<OnceLock<Arc<Connection>>> = Arc::default();
    undo.push("shim", {
        let (shared, bundle, binary) = (shared.clone(), bundle.clone(), binary.clone());
        let connected = connected.clone();
        async move { cleanup::discard(&shared, &bundle, &binary, connected.get()).await.map(drop) }
    });
    // Neither is given up when the other fails: what is under way is undone when
    // it has come to its end.
    let (started, work) = tokio::join!(
        shared.launcher.start(&binary, bundle, request.options.as_ref()),
        make_work(bundle, &mut request.checkpoint),
    );
    let Started { bootstrap, is_ours } = started?;
    shared.registry.note_address(bundle, bootstrap.address.parse()?);
    work?;

    let connection = Connection::dial(&bootstrap, bundle.namespace(), &shared.closing);
    let connection = connection.await.map_err(unreachable)?;
    let connection = connected.get_or_init(|| Arc::new(connection)).clone();
    let folder = bundle.clone();
    let note = blocking(move || folder.write_bootstrap(&bootstrap));
    let Timeouts { load, request: limit, .. } = shared.config.timeouts;
    let identify = connection.identify(bundle.id(), Some(load));
    let wire: CreateTaskRequest = convert::create_to_wire(request, bundle.path())?;
    let create = connection.task("Create", &wire, Some(limit));
    let answer: CreateTaskResponse = if is_ours {
        // It says who it is while it makes the container, and is found without
        // our note.
        let (noted, identified, created) = tokio::join!(note, identify, create);
        noted.and(identified.map_err(unreachable))?;
        created?
    } else {
        let (noted, identified) = tokio::join!(note, identify);
        noted.and(identified.map_err(unreachable))?;
        create.await?
    };

    let seen = Seen::init(answer.pid);
    let task = Task::new(shared, bundle.clone(), binary, connection, Some(log), seen);
    shared.registry.insert(task.clone());
    supervise::watch(shared, &task);
    Ok(task)
}

/// Makes the work folder, and brings the images there that the task is restored
/// from, if they are to be brought.
async fn make_work(bundle: &Bundle, checkpoint: &mut Option<Checkpoint>) -> Result<()> {
    let folder = bundle.clone();
    blocking(move || folder.create_work()).await?;
    let Some(Checkpoint::Images(images)) = checkpoint else { return Ok(()) };
    let owner = bundle.clone();
    let folder = blocking(move || owner.make_restore_folder()).await?;
    images.unpack(&folder).await.context("bring the checkpoint of", bundle.id())?;
    *checkpoint = Some(Checkpoint::Folder(folder));
    Ok(())
}

/// It must not look as if there were no such container.
fn unreachable(error: Error) -> Error {
    match error.is_not_found() {
        true => error.with_kind(ErrorKind::Unavailable),
        false => error,
    }
}
