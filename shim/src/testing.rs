//! What the unit tests of this crate share.

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shim_protocol::Id;

use crate::reaper::Reaper;

/// One process has one waitpid: tests with children take turns.
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

fn turn() -> MutexGuard<'static, ()> {
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

/// `sh -c script`.
pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

/// A bundle with a busybox root filesystem whose container runs `args`.
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
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(busybox, bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "sleep", "id", "true", "stty", "echo"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let config = serde_json::to_vec(&spec(&bundle.id, args, terminal)).unwrap();
        std::fs::write(bundle.path().join("config.json"), config).unwrap();
        Some(bundle)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
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
            "cgroupsPath": format!("/containerd-shim-test-{id}"),
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
