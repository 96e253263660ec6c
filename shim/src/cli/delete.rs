//! `delete`: cleans up after a shim that died, and tells how init ended.

use std::{
    io::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use protobuf::{Message, well_known_types::timestamp::Timestamp};
use shim_protocol::{Context, Error, ErrorKind, Id, Result, exits, proto::task_v2::DeleteResponse};

use super::{args::Args, serve};
use crate::{
    bundle::Bundle,
    log,
    reaper::Reaper,
    runtime::{
        Runtime,
        binary::BinaryRuntime,
        embedded::{EmbeddedRuntime, Helpers},
    },
    socket,
};

/// Status of a container whose end nobody saw: killed, as it is by now.
const KILLED: u32 = 128 + nix::libc::SIGKILL as u32;

/// Runs `delete`: kills what remains of the container, unmounts its root
/// filesystem, removes the socket, prints a `DeleteResponse`. Doing it twice
/// is fine.
///
/// # Errors
/// When something remains: the bundle must not be removed then.
pub fn run(args: Args) -> Result<()> {
    log::init(args.debug);
    let namespace = Id::new("namespace", &args.namespace)?;
    let id = Id::new("container id", &args.id)?;
    let bundle = super::bundle(&args)?;
    let recorded = exits::read(bundle.path(), None);
    let removed = serve::block_on(remove(&bundle, &namespace, &id));
    // Each of these is worth doing even if the one before has failed.
    let unmounted = containerd_mounts::unmount_all(&bundle.rootfs());
    let unbound = remove_socket(&bundle);
    removed.context("remove container", &id)?;
    unmounted.context("unmount the root of", &id)?;
    unbound?;

    let (pid, exit_status, at) = match intact(recorded)?.flatten() {
        Some(record) => (record.pid, record.status, record.at),
        None => {
            let pid = intact(bundle.init_pid())?.flatten().unwrap_or_default();
            (pid, KILLED, SystemTime::now())
        }
    };
    let response = DeleteResponse {
        pid,
        exit_status,
        exited_at: Some(Timestamp::from(at)).into(),
        ..Default::default()
    };
    let bytes = response
        .write_to_bytes()
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode DeleteResponse", e))?;
    io::stdout().write_all(&bytes).context("print", "DeleteResponse")
}

/// What was noted in the bundle; `None`, and a word on it, if the note is
/// garbage: the container has to go all the same.
fn intact<T>(note: Result<T>) -> Result<Option<T>> {
    match note {
        Err(e) if e.kind() == ErrorKind::DataLoss => {
            eprintln!("{}", e.report());
            Ok(None)
        }
        note => note.map(Some),
    }
}

async fn remove(bundle: &Bundle, namespace: &Id, id: &Id) -> Result<()> {
    let options = match intact(bundle.options())? {
        Some(options) => options,
        None => intact(bundle.older_options())?.unwrap_or_default(),
    };
    let reaper = Reaper::start()?;
    let root = options.root(namespace);
    // An older shim, or a Go one, may have had it made by a program.
    let embedded = options.is_embedded() && EmbeddedRuntime::made(&root, id) != Some(false);
    let runtime: Box<dyn Runtime> = match embedded {
        true => {
            let helpers = Arc::new(Helpers::new(reaper, None));
            Box::new(EmbeddedRuntime::new(root, bundle.path(), helpers))
        }
        false => {
            let config = serve::binary_config(bundle.path(), &options, namespace);
            Box::new(BinaryRuntime::new(config, reaper))
        }
    };
    match runtime.delete(id, true).await {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

/// Removes the dead shim's socket, unless it serves other containers.
fn remove_socket(bundle: &Bundle) -> Result<()> {
    let address = intact(bundle.address())?.flatten();
    match address.as_deref().and_then(socket::path_of) {
        Some(path) => socket::remove_stale(path),
        None => Ok(()),
    }
}
