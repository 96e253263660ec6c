//! Programs that the configuration has run at points of a container's life
//! (OCI runtime specification, `config.md`, "POSIX-platform Hooks").

use libcontainer::{
    container::{Container, ContainerStatus, State},
    hooks::run_hooks,
};
use oci_spec::runtime::Hook;
use shim_protocol::{Error, ErrorKind, Id, Result};

use super::{Record, Store};

/// The container as hooks get to see it.
pub(super) fn view(store: &Store, id: &Id, record: &Record, status: ContainerStatus) -> Container {
    let pid = i32::try_from(record.pid).ok().filter(|pid| *pid != 0);
    let mut state = State::new(id, status, pid, record.bundle.clone());
    state.annotations = Some(record.annotations.clone());
    Container { state, root: store.folder(id) }
}

/// Runs hooks one after the other until one fails. Those that name no
/// environment get `env`.
///
/// # Errors
/// `Unknown` with what the hook did wrong, under the name of its list.
pub(super) fn run(
    hooks: Option<&Vec<Hook>>,
    name: &str,
    container: &Container,
    env: Option<&[String]>,
) -> Result<()> {
    if hooks.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let env = env.map(|entries| {
        let pairs = entries.iter().filter_map(|entry| entry.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    run_hooks(hooks, Some(&container.state), None, None, env.as_ref())
        .map_err(|e| Error::caused(ErrorKind::Unknown, format!("hooks.{name}"), e))
}

/// Runs those of a container that is gone but for its record.
pub(super) fn after(store: &Store, id: &Id, record: &Record) {
    if !record.poststop.is_empty() {
        let view = view(store, id, record, ContainerStatus::Stopped);
        run_all(&record.poststop, "poststop", &view);
    }
}

/// Runs hooks that come too late to change anything: each is run, and what
/// fails is logged.
pub(super) fn run_all(hooks: &[Hook], name: &str, container: &Container) {
    for hook in hooks {
        if let Err(error) = run(Some(&vec![hook.clone()]), name, container, None) {
            tracing::warn!(container = container.id(), error = %error.report(), "hook");
        }
    }
}
