//! Shims that were started for a bundle, and that nobody can reach: most often
//! the daemon died before it heard where they listen.
//!
//! A start works on without the daemon that asked for it. If it is not ended,
//! it leaves a shim that no bundle tells of.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shim_protocol::{Context, Id, Result};
use tokio::time::timeout;
use tracing::warn;

use crate::{bundle::Bundle, manager::blocking, program::FileId, sys::ProcessHandle};

/// Kills the shim of a bundle and whatever is about to become it, and waits
/// for their ends.
pub(crate) async fn end_all(bundle: &Bundle, binary: &Path, limit: Duration) {
    match timeout(limit, kill_until_none(bundle, binary)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(id = %bundle.id(), error = %error.report(), "start of shim goes on");
        }
        Err(_) => warn!(id = %bundle.id(), ?limit, "start of shim does not end"),
    }
}

async fn kill_until_none(bundle: &Bundle, binary: &Path) -> Result<()> {
    let sought = Sought {
        // The kernel tells real paths.
        folder: tokio::fs::canonicalize(bundle.path())
            .await
            .context("find", bundle.path().display())?,
        binary: tokio::fs::metadata(binary).await.ok().map(|found| FileId::from(&found)),
        id: bundle.id().clone(),
    };
    let sought = Arc::new(sought);
    loop {
        let wanted = sought.clone();
        let found = blocking(move || wanted.find_all()).await?;
        if found.is_empty() {
            return Ok(());
        }
        // One that is killed while it forks may have left another.
        for pid in found {
            end(pid, &sought).await.context("kill start of shim", pid)?;
        }
    }
}

async fn end(pid: u32, sought: &Sought) -> std::io::Result<()> {
    let Some(process) = ProcessHandle::find(pid)? else { return Ok(()) };
    // With the handle open, the pid cannot become another's.
    if sought.is(pid) {
        process.kill()?;
        process.ended().await?;
    }
    Ok(())
}

/// What tells a shim, or its start, from other processes: it works in the
/// bundle's folder, and is the noted program, or has the start contract's
/// arguments, as what a wrapper runs. During execve(2) a process has a program
/// but no arguments yet.
struct Sought {
    folder: PathBuf,
    /// By its inode: it may have been executed from another mount of it. One
    /// that is not installed any more is known by its arguments only.
    binary: Option<FileId>,
    id: Id,
}

impl Sought {
    /// Pids of all of them. Blocks.
    fn find_all(&self) -> Result<Vec<u32>> {
        let entries = fs::read_dir("/proc").context("list", "/proc")?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(pids.filter(|pid| self.is(*pid)).collect())
    }

    /// One that has ended, reaped or not, is nowhere.
    fn is(&self, pid: u32) -> bool {
        let process = Path::new("/proc").join(pid.to_string());
        let is_at_work = || fs::read_link(process.join("cwd")).is_ok_and(|at| at == self.folder);
        let is_binary = || self.binary.is_some() && FileId::of(&process.join("exe")) == self.binary;
        is_at_work() && (is_binary() || self.is_named_in(&process.join("cmdline")))
    }

    fn is_named_in(&self, arguments: &Path) -> bool {
        let arguments = fs::read(arguments).unwrap_or_default();
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
        arguments.windows(2).any(|pair| pair == [b"-id".as_slice(), self.id.as_str().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Whether it is executed by its path or from another mount of its file.
    #[test]
    fn a_program_is_known_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let sought = |binary: &str| Sought {
            folder: folder.path().canonicalize().unwrap(),
            binary: FileId::of(Path::new(binary)),
            id: Id::new("id", "a").unwrap(),
        };
        let mut commands = vec![Command::new("/bin/sleep")];
        let sealed = containerd_mounts::sealed(Path::new("/bin/sleep"));
        match &sealed {
            Ok(sealed) => {
                use std::os::fd::AsRawFd;
                commands.push(Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd())));
            }
            Err(error) => println!("skipped in part: {error}"),
        }
        for mut command in commands {
            let mut child = command.arg("1000").current_dir(&folder).spawn().unwrap();
            assert!(sought("/bin/sleep").is(child.id()));
            assert!(!sought("/bin/cat").is(child.id()));
            assert!(!sought("/nowhere").is(child.id()));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!sought("/bin/sleep").is(child.id()));
        }
    }
}
