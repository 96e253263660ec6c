//! What the daemon does to its process and its machine before it serves.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use shim_protocol::{Context, Result};

use crate::{assembly::Core, cgroup, config::Config};

/// Makes the folders and takes the place among processes that the
/// configuration asks for.
///
/// # Errors
/// Those of the system, with the folder or file in question.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    // State may be looked into by processes of containers with user
    // namespaces; each folder in it has the mode it needs.
    make_folder(&config.root, 0o700)?;
    make_folder(&config.state, 0o711)?;
    if let Some(temp) = &config.temp {
        make_folder(temp, 0o700)?;
    }
    if config.oom_score != 0
        && let Err(error) = fs::write("/proc/self/oom_score_adj", config.oom_score.to_string())
    {
        // A lower score needs CAP_SYS_RESOURCE, which the root of a container
        // lacks: the daemon is as useful without it (as in containerd).
        tracing::error!(%error, score = config.oom_score, "cannot set the OOM score");
    }
    if let Some(path) = &config.cgroup_path {
        cgroup::join(path).context("join cgroup", path)?;
    }
    Ok(())
}

/// Makes a folder with those above it. One that is there gets the mode too:
/// older daemons made it with another.
fn make_folder(path: &Path, mode: u32) -> Result<()> {
    let make = || -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().context("make folder", path.display())
}

/// Writes all tasks to the log, and to a file in the state folder.
pub(crate) async fn dump(core: &Core, state: &Path) {
    let metrics = tokio::runtime::Handle::current().metrics();
    let mut text =
        format!("futures {} threads {}\n", metrics.num_alive_tasks(), metrics.num_workers());
    for namespace in core.manager.namespaces() {
        for process in core.tasks.list(&namespace).await {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "task {namespace}/{} pid {} {:?}",
                process.container_id, process.pid, process.status
            );
            if let Some(exit) = process.exit {
                let _ = write!(text, " exit status {}", exit.status);
            }
            text.push('\n');
        }
    }
    for line in text.lines() {
        tracing::info!("dump: {line}");
    }
    let path = state.join(format!("containerd.{}.tasks.log", std::process::id()));
    match tokio::fs::write(&path, text).await {
        Ok(()) => tracing::info!(file = %path.display(), "tasks were dumped"),
        Err(e) => tracing::warn!(file = %path.display(), error = %e, "tasks were not dumped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_get_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        for mode in [0o700, 0o711] {
            make_folder(&path, mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }
}
