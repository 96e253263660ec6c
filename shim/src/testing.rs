//! What the unit tests of this crate share.

use std::{
    fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{sys::signal, unistd::Pid};
use shim_protocol::Id;

use crate::{reaper::Reaper, sys::command};

/// One process has one waitpid: tests with children take turns. So nobody else
/// forks meanwhile, and a script that a test has written can be executed: no
/// child of another test has it open for writing.
static CHILDREN: Mutex<()> = Mutex::new(());

/// Runs a test that starts processes, on a runtime like the shim's.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Arc<Reaper>) -> F) {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let reaper = Reaper::start().unwrap();
        test(reaper).await;
    });
}

pub(crate) fn turn() -> MutexGuard<'static, ()> {
    // A test that failed while it had its turn has said so already.
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True for root; else says that the test is skipped.
pub(crate) fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

/// Where a program is, or a word on the test being skipped.
pub(crate) fn program(test: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
    if found.is_none() {
        eprintln!("{test}: skipped, needs {name}");
    }
    found
}

/// An id no other test has.
pub(crate) fn id(name: &str) -> Id {
    Id::new("test id", &format!("{name}-{}", std::process::id())).unwrap()
}

/// `sh -c script`; killed at the test's end, should it still run.
pub(crate) fn sh(script: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]);
    // Each test has a thread of its own.
    command::die_with_parent(&mut shell);
    shell
}

/// Ends all processes in the group `path` of every hierarchy, and removes it.
pub(crate) fn remove_group(path: &Path) {
    let hierarchies =
        containerd_mounts::mountinfo::select(|entry| entry.kind.starts_with("cgroup")).unwrap();
    for hierarchy in hierarchies {
        let folder = hierarchy.point.join(path.strip_prefix("/").unwrap());
        for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
            // It may have ended just now.
            let _ = signal::kill(Pid::from_raw(pid.parse().unwrap()), signal::SIGKILL);
        }
        // A process that was just killed leaves its group a little later.
        while fs::remove_dir(&folder).is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy) {
            std::thread::yield_now();
        }
    }
}

/// A bundle with a busybox root filesystem whose container runs `args`. However
/// the test ends, no process and no group of the container stays.
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
    /// The container's name.
    pub(crate) id: Id,
}

impl Bundle {
    /// `None`, and a word on why, where containers cannot be run.
    pub(crate) fn new(test: &str, args: &[&str], terminal: bool) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let busybox = program(test, "busybox")?;
        let bundle = Self { dir: tempfile::tempdir().unwrap(), id: id(test) };
        let bin = bundle.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox, bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "sleep", "id", "true", "stty", "echo"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let config = serde_json::to_vec(&spec(&bundle.id, args, terminal)).unwrap();
        fs::write(bundle.path().join("config.json"), config).unwrap();
        Some(bundle)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        remove_group(Path::new(&group(&self.id)));
    }
}

fn group(id: &Id) -> String {
    format!("/containerd-shim-test-{id}")
}

fn spec(id: &Id, args: &[&str], terminal: bool) -> serde_json::Value {
    serde_json::json!({
        "ociVersion": "1.0.2",
        "process": process(args, terminal),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": group(id),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
            ],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        },
    })
}

/// An OCI process.
pub(crate) fn process(args: &[&str], terminal: bool) -> serde_json::Value {
    serde_json::json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
    })
}
