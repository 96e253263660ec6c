//! Making a task: a sequence of steps, each with its undo.

use std::sync::{Arc, OnceLock};

use shim_protocol::{
    Context, ErrorKind, Result,
    proto::task_v2::{CreateTaskRequest, CreateTaskResponse},
};

use crate::{
    Checkpoint, CreateTask, Task,
    bundle::Bundle,
    cleanup,
    client::Connection,
    convert,
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
    match steps(shared, request, &bundle, &mut undo).await {
        Ok(task) => {
            undo.commit();
            Ok(task)
        }
        Err(cause) => Err(undo.roll_back(cause).await),
    }
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
    blocking(move || folder.create(&spec)).await?;
    let folder = bundle.clone();
    undo.push("bundle", async move { blocking(move || folder.remove()).await });
    let is_restored = restore_from(&mut request, bundle).await?;
    // The shim may have announced the task before it failed to answer. While
    // the id and its bundle are ours, no other task can be meant.
    undo.push("announcement", {
        let (shared, bundle) = (shared.clone(), bundle.clone());
        async move { shared.events.close_task(bundle.namespace(), bundle.id()).await }
    });
    // Noted before the start, so that whoever finds the bundle can clean up.
    let folder = bundle.clone();
    blocking(move || folder.write_shim_binary(&program)).await?;

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
    let bootstrap = shared.launcher.start(&binary, bundle, request.options.as_ref()).await?;
    shared.registry.note_address(bundle, bootstrap.address.parse()?);
    let (folder, noted) = (bundle.clone(), bootstrap.clone());
    blocking(move || folder.write_bootstrap(&noted)).await?;

    let limit = shared.config.timeouts.load;
    let connection =
        Connection::open(&bootstrap, bundle.namespace(), bundle.id(), &shared.closing, limit)
            .await
            .map_err(|e| match e.is_not_found() {
                // It must not look as if there were no such container.
                true => e.with_kind(ErrorKind::Unavailable),
                false => e,
            })?;
    let connection = connected.get_or_init(|| Arc::new(connection)).clone();

    let wire: CreateTaskRequest = convert::create_to_wire(request, bundle.path())?;
    let limit = shared.config.timeouts.request;
    let answer: CreateTaskResponse = connection.task("Create", &wire, Some(limit)).await?;

    let seen = Seen::init(answer.pid);
    let task = Task::new(shared, bundle.clone(), binary, connection, Some(log), seen);
    if is_restored {
        task.will_be_restored();
    }
    shared.registry.insert(task.clone());
    supervise::watch(shared, &task);
    Ok(task)
}

/// Brings the images that the task is restored from, if they are to be brought.
async fn restore_from(request: &mut CreateTask, bundle: &Bundle) -> Result<bool> {
    let Some(Checkpoint::Images(images)) = &request.checkpoint else { return Ok(false) };
    let owner = bundle.clone();
    let folder = blocking(move || owner.make_restore_folder()).await?;
    images.unpack(&folder).await.context("bring the checkpoint of", bundle.id())?;
    request.checkpoint = Some(Checkpoint::Folder(folder));
    Ok(true)
}
