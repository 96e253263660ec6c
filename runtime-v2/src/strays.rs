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
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::{bundle::Bundle, manager::blocking, program::FileId, sys::ProcessHandle};

/// How often, and how many times, it is looked again at what is being executed;
/// nothing tells of the end of an execve(2). Who shows no arguments after that
/// has erased them.
const AGAIN: Duration = Duration::from_millis(5);
const LOOKS: usize = 100;

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
    let mut looks = 0;
    loop {
        let wanted = sought.clone();
        let Found { pids, unclear } = blocking(move || wanted.find_all()).await?;
        if pids.is_empty() && (!unclear || looks == LOOKS) {
            return Ok(());
        }
        looks = if pids.is_empty() { looks + 1 } else { 0 };
        // One that is killed while it forks may have left another.
        for pid in pids {
            end(pid, &sought).await.context("kill start of shim", pid)?;
        }
        if unclear {
            sleep(AGAIN).await;
        }
    }
}

async fn end(pid: u32, sought: &Sought) -> std::io::Result<()> {
    let Some(process) = ProcessHandle::find(pid)? else { return Ok(()) };
    // With the handle open, the pid cannot become another's.
    if sought.look_at(pid) == Look::Sought {
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

/// What was found.
#[derive(Debug, Default)]
struct Found {
    pids: Vec<u32>,
    /// There may be more, of which it is not known yet.
    unclear: bool,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Sought,
    Other,
    /// It is being executed.
    Unclear,
}

impl Sought {
    /// All of them. Blocks.
    fn find_all(&self) -> Result<Found> {
        let mut found = Found::default();
        for entry in fs::read_dir("/proc").context("list", "/proc")? {
            let name = entry.context("list", "/proc")?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            match self.look_at(pid) {
                Look::Sought => found.pids.push(pid),
                Look::Unclear => found.unclear = true,
                Look::Other => {}
            }
        }
        Ok(found)
    }

    /// One that has ended, reaped or not, is nowhere.
    fn look_at(&self, pid: u32) -> Look {
        let process = Path::new("/proc").join(pid.to_string());
        let is_at_work = fs::read_link(process.join("cwd")).is_ok_and(|at| at == self.folder);
        if !is_at_work {
            return Look::Other;
        }
        if self.binary.is_some() && FileId::of(&process.join("exe")) == self.binary {
            return Look::Sought;
        }
        // Gone in between if it cannot be read.
        let Ok(arguments) = fs::read(process.join("cmdline")) else { return Look::Other };
        self.by_arguments(&arguments)
    }

    fn by_arguments(&self, arguments: &[u8]) -> Look {
        if arguments.is_empty() {
            return Look::Unclear;
        }
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
        let named = [b"-id".as_slice(), self.id.as_str().as_bytes()];
        match arguments.windows(2).any(|pair| pair == named) {
            true => Look::Sought,
            false => Look::Other,
        }
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
            assert_eq!(sought("/bin/sleep").look_at(child.id()), Look::Sought);
            for other in ["/bin/cat", "/nowhere"] {
                assert_ne!(sought(other).look_at(child.id()), Look::Sought);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(sought("/bin/sleep").look_at(child.id()), Look::Other);
        }
    }

    #[test]
    fn what_has_no_arguments_yet_is_looked_at_again() {
        let id = Id::new("id", "a").unwrap();
        let sought = Sought { folder: PathBuf::new(), binary: None, id };
        assert_eq!(sought.by_arguments(b""), Look::Unclear);
        assert_eq!(sought.by_arguments(b"shim\0-id\0a\0start\0"), Look::Sought);
        assert_eq!(sought.by_arguments(b"shim\0-id\0ab\0start\0"), Look::Other);
    }
}
