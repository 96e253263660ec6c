//! Where one test lives: a folder, a mount namespace and a cgroup of its own.
//!
//! All programs of a test run in the same private mount namespace, in which
//! `/run` is an empty tmpfs. So fixed paths such as `/run/containerd/s` belong
//! to the test alone, no mount reaches the machine, and a process belongs to
//! the test if it is in that namespace or in the test's cgroup.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{proc, rootfs};

/// How long cleaning up may wait for processes that were killed.
const REAP_DEADLINE: Duration = Duration::from_secs(10);

/// Where a machine has a filesystem in memory, whatever `/run` is.
const MEMORY: &str = "/dev/shm";

/// Where the machine's cgroup hierarchies are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// A private place for a test; dropping it removes everything in it.
pub struct Sandbox {
    folder: TempDir,
    /// For what daemons have in `/run`: in memory, as that is.
    volatile: TempDir,
    /// Keeps the mount namespace alive. It ends by itself when we do, because
    /// its standard input closes.
    holder: Child,
    namespace: PathBuf,
    cgroup: String,
}

impl Sandbox {
    /// Makes folder, mount namespace and root filesystem.
    ///
    /// # Errors
    /// No root, no disk space, or no `unshare` program.
    pub fn new() -> Result<Self> {
        // Short, because socket paths below it may have 107 bytes.
        let folder = tempfile::Builder::new().prefix("ct-").tempdir_in("/tmp")?;
        let name = folder.path().file_name().and_then(|name| name.to_str()).context("name")?;
        let memory = if Path::new(MEMORY).is_dir() { MEMORY } else { "/tmp" };
        let volatile = tempfile::Builder::new().prefix("ct-").tempdir_in(memory)?;
        // No other test has it, in this run or in one beside it.
        let cgroup = format!("/{name}");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c"])
            .arg("mount -t tmpfs tmpfs /run && echo ready && exec cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let mut ready = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        let namespace = proc::mount_namespace(holder.id());
        let namespace = namespace.context("read mount namespace")?;
        let sandbox = Self { folder, volatile, holder, namespace, cgroup };
        ensure!(ready == "ready\n", "cannot make a mount namespace");
        rootfs::build(&sandbox.rootfs())?;
        Ok(sandbox)
    }

    /// The private folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the private folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The private folder for a daemon's state.
    pub fn state(&self) -> PathBuf {
        self.volatile.path().join("state")
    }

    /// Makes an executable file in the private folder.
    ///
    /// A program of its own writes it. If we did, a child that another test
    /// forks meanwhile would hold it open for writing until its exec, and the
    /// kernel executes no file that somebody writes (`ETXTBSY`).
    ///
    /// # Errors
    /// No disk space, or no `install` program.
    pub fn executable(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let mut install = Command::new("install")
            .args(["--mode=755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .context("install")?;
        let mut input = install.stdin.take().context("standard input")?;
        input.write_all(text.as_bytes())?;
        drop(input);
        ensure!(install.wait()?.success(), "cannot write {}", path.display());
        Ok(path)
    }

    /// The busybox root filesystem.
    pub fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// Path of the cgroup for this test's containers, from the root of each
    /// hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The containerd namespace for this test. Clients that choose a cgroup
    /// take one of that name, so it is that of the test's cgroup.
    pub fn namespace(&self) -> &str {
        self.cgroup.trim_start_matches('/')
    }

    /// A path of the private `/run`, as the test process reaches it.
    pub fn run(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root/run").join(path)
    }

    /// A command line that starts `program` in the mount namespace.
    pub fn command(&self, program: &Path) -> (&'static str, Vec<std::ffi::OsString>) {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        ("nsenter", vec![namespace.into(), "--".into(), program.into()])
    }

    /// Mounts a tmpfs of so many bytes at `target`, for the programs of the
    /// test.
    ///
    /// # Errors
    /// `mount` failed.
    pub fn mount_tmpfs(&self, target: &Path, bytes: usize) -> Result<()> {
        let (program, arguments) = self.command(Path::new("/bin/mount"));
        let status = Command::new(program)
            .args(arguments)
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(target)
            .status()?;
        ensure!(status.success(), "cannot mount at {}", target.display());
        Ok(())
    }

    /// Takes a mount away, as soon as nobody uses it.
    ///
    /// # Errors
    /// `umount` failed.
    pub fn unmount(&self, mount: &Path) -> Result<()> {
        let (program, arguments) = self.command(Path::new("/bin/umount"));
        let status = Command::new(program).args(arguments).arg("--lazy").arg(mount).status()?;
        ensure!(status.success(), "cannot unmount {}", mount.display());
        Ok(())
    }

    /// Lets the programs of the test find this machine by another name: one that
    /// is no word for loopback, which many clients treat in ways of its own.
    ///
    /// # Errors
    /// `mount` failed.
    pub fn name_this_machine(&self, name: &str) -> Result<()> {
        let file = self.path("hosts-file");
        fs::write(&file, format!("127.0.0.1 localhost {name}\n"))?;
        let (program, arguments) = self.command(Path::new("/bin/mount"));
        let status = Command::new(program)
            .args(arguments)
            .arg("--bind")
            .arg(&file)
            .arg("/etc/hosts")
            .status()?;
        ensure!(status.success(), "cannot mount {}", file.display());
        Ok(())
    }

    /// Hides the tree of cgroup v2 that some machines have beside those of v1
    /// from the programs of the test. crun refuses the mixture if a controller
    /// is in the tree of v2.
    ///
    /// # Errors
    /// The machine does not allow it.
    pub fn hide_second_cgroup_tree(&self) -> Result<()> {
        let second = Path::new(CGROUPS).join("unified");
        if !self.mounts_below(&second).is_empty() {
            self.unmount(&second)?;
        }
        Ok(())
    }

    /// Mounts below `folder` as the programs of the test see them.
    pub fn mounts_below(&self, folder: &Path) -> Vec<PathBuf> {
        proc::mounts_below(self.holder.id(), folder)
    }

    /// Processes in the mount namespace or in the test's cgroup.
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut found = self.in_cgroup();
        found.extend(proc::pids().into_iter().filter(|pid| {
            *pid != self.holder.id()
                && proc::mount_namespace(*pid).is_ok_and(|namespace| namespace == self.namespace)
        }));
        found
    }

    /// The shim processes, whatever container they are for.
    pub fn shims(&self) -> Vec<u32> {
        self.processes().into_iter().filter(|pid| proc::is_shim(*pid)).collect()
    }

    /// The shim that was started for the container `id`.
    pub fn shim_of(&self, id: &str) -> Option<u32> {
        self.shims()
            .into_iter()
            .find(|pid| proc::arguments(*pid).windows(2).any(|pair| pair == ["-id", id]))
    }

    /// The folders of the test's cgroup that exist, in any hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        self.hierarchies()
            .into_iter()
            .map(|root| root.join(self.namespace()))
            .filter(|path| path.exists())
            .collect()
    }

    /// The roots of all cgroup hierarchies that the programs of the test see:
    /// v1, v2, or both side by side.
    fn hierarchies(&self) -> BTreeSet<PathBuf> {
        let root = Path::new("/proc").join(self.holder.id().to_string()).join("root");
        self.mounts_below(Path::new(CGROUPS))
            .into_iter()
            .filter_map(|path| Some(root.join(path.strip_prefix("/").ok()?)))
            .filter(|path| path.join("cgroup.procs").exists())
            .collect()
    }

    fn in_cgroup(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for folder in self.cgroups() {
            for_each_folder(&folder, &mut |cgroup| {
                let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            });
        }
        found
    }

    /// Kills everything that belongs to the test and waits until it is gone.
    fn kill_all(&self) {
        let end = Instant::now() + REAP_DEADLINE;
        loop {
            let alive: Vec<_> =
                self.processes().into_iter().filter(|pid| proc::is_alive(*pid)).collect();
            if alive.is_empty() || Instant::now() > end {
                return;
            }
            self.thaw();
            for pid in alive {
                proc::signal(pid, Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A frozen process does not die of a signal (cgroup v1).
    fn thaw(&self) {
        for folder in self.cgroups() {
            for_each_folder(&folder, &mut |cgroup| {
                // Only cgroups of the freezer hierarchy have this file.
                let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            });
        }
    }

    fn remove_cgroups(&self) {
        for folder in self.cgroups() {
            let mut all = Vec::new();
            for_each_folder(&folder, &mut |cgroup| all.push(cgroup.to_owned()));
            for cgroup in all.iter().rev() {
                if let Err(error) = fs::remove_dir(cgroup) {
                    eprintln!("cannot remove {}: {error}", cgroup.display());
                }
            }
        }
    }

    fn unmount_all(&self) {
        for folder in [self.folder(), self.volatile.path()] {
            for mount in self.mounts_below(folder).iter().rev() {
                if let Err(error) = self.unmount(mount) {
                    eprintln!("{error:#}");
                }
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill_all();
        self.remove_cgroups();
        // Before the folder is removed with all that is in it.
        self.unmount_all();
        drop(self.holder.stdin.take());
        if let Err(error) = self.holder.wait() {
            eprintln!("the holder of the mount namespace: {error}");
        }
    }
}

/// Calls `visit` for `folder` and each folder below it, parents first.
fn for_each_folder(folder: &Path, visit: &mut impl FnMut(&Path)) {
    visit(folder);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            for_each_folder(&entry.path(), visit);
        }
    }
}
