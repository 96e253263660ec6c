//! What every test starts with, and how every test ends.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use containerd_api::{runc::v1::Options, to_any, types::Mount};
use tokio::runtime;

use crate::{
    Api, Container, Ctr, Daemon, Events, Load, Origin, Pairing, Process, Sandbox, Spec, Stdio,
    leaks, program,
    programs::{obstacle, skip},
};

/// How long one test may take. Only one that hangs takes that long.
const TEST_DEADLINE: Duration = Duration::from_secs(600);

/// How much of a daemon's log is shown when a test fails.
const LOG_LINES: usize = 150;

/// Name of runc's shim for daemons that look it up.
const RUNTIME: &str = "io.containerd.runc.v2";

/// A running daemon in a private place.
pub struct Bed {
    /// The daemon.
    pub daemon: Daemon,
    api: Api,
    /// The place. After the daemon, so that it is dropped after it.
    pub sandbox: Sandbox,
    failed: bool,
}

/// Runs `test` with a daemon of its own, and checks that it leaves nothing.
///
/// # Panics
/// The test failed, or something is left.
pub fn run(pairing: Pairing, test: impl AsyncFnOnce(&mut Bed) -> Result<()>) {
    run_with(&[pairing.daemon, pairing.shim], async || {
        let mut bed = Bed::start(pairing).await?;
        let result = async {
            test(&mut bed).await?;
            bed.daemon.pid().context("the test left no daemon behind")?;
            leaks::check(&bed.sandbox, &bed.daemon).await
        };
        let result = tokio::time::timeout(TEST_DEADLINE, result).await;
        let result = result.context("the test hangs").flatten();
        bed.failed = result.is_err();
        result
    });
}

/// Runs `test`, which needs programs of these origins, without a daemon.
///
/// # Panics
/// The test failed.
pub fn run_plain(origins: &[Origin], test: impl AsyncFnOnce() -> Result<()>) {
    run_with(origins, async || {
        tokio::time::timeout(TEST_DEADLINE, test()).await.context("the test hangs").flatten()
    });
}

fn run_with(origins: &[Origin], test: impl AsyncFnOnce() -> Result<()>) {
    if let Some(reason) = obstacle(origins) {
        let thread = std::thread::current();
        skip(thread.name().unwrap_or("a test"), &reason);
        return;
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("cannot make a runtime: {error}"));
    let result = runtime.block_on(test());
    // A thread may be waiting for the other side of a FIFO that never came.
    runtime.shutdown_background();
    if let Err(error) = result {
        panic!("{error:?}");
    }
}

impl Bed {
    /// Starts a daemon and connects to it.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn start(pairing: Pairing) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let mut daemon = Daemon::configure(&sandbox, pairing)?;
        let started = daemon.start(&sandbox).await;
        started.with_context(|| format!("its log:\n{}", daemon.log()))?;
        let api = Api::connect(daemon.socket(), sandbox.namespace()).await?;
        Ok(Self { daemon, api, sandbox, failed: false })
    }

    /// The connection, in the namespace of the tests. It survives a restart of
    /// the daemon.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The containerd namespace of this test.
    pub fn namespace(&self) -> &str {
        self.sandbox.namespace()
    }

    /// Kills the daemon and starts it again.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn crash(&mut self) -> Result<()> {
        self.daemon.crash(&self.sandbox).await
    }

    /// Subscribes to all events.
    ///
    /// # Errors
    /// None arrive.
    pub async fn events(&self) -> Result<Events> {
        Events::subscribe(&self.daemon).await
    }

    /// What it takes to make many containers at once.
    pub fn load(&self) -> Load {
        Load::new(self.api.clone(), self.spec("", ""), self.sandbox.cgroup())
    }

    /// The runtime name by which the daemon finds the shim of the pairing.
    pub fn runtime(&self) -> String {
        self.runtime_of(self.daemon.pairing().shim)
    }

    /// The runtime name for the shim of `origin`: a name where the daemon finds
    /// it by itself, else a path.
    pub fn runtime_of(&self, origin: Origin) -> String {
        let pairing = self.daemon.pairing();
        let by_name = match pairing.daemon {
            // By PATH, which has our folder first if our shim is wanted.
            Origin::Debian => origin == pairing.shim,
            // Beside itself.
            Origin::Ours => origin == Origin::Ours,
        };
        if by_name {
            RUNTIME.into()
        } else {
            program(origin, "containerd-shim-runc-v2").display().to_string()
        }
    }

    /// A spec that runs `script`, with cgroup and root filesystem of this test.
    pub fn spec(&self, id: &str, script: &str) -> Spec {
        let rootfs = self.sandbox.rootfs().display().to_string();
        let cgroup = format!("{}/{id}", self.sandbox.cgroup());
        let spec = Spec::shell(script, &rootfs, &cgroup, &self.runtime());
        if !self.daemon.pairing().names_runtime() {
            return spec;
        }
        spec.options(to_any(&Options { binary_name: "runc".into(), ..Options::default() }))
    }

    /// A mount list that makes the test's root filesystem appear in the bundle.
    pub fn rootfs_mounts(&self) -> Vec<Mount> {
        vec![Mount {
            r#type: "bind".into(),
            source: self.sandbox.rootfs().display().to_string(),
            target: String::new(),
            options: vec!["rbind".into(), "ro".into()],
        }]
    }

    /// A container record.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn container(&self, id: &str, spec: &Spec) -> Result<Container> {
        Container::create(&self.api, id, spec, BTreeMap::new()).await
    }

    /// Container, task and streams for `script`; not started.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn create(&self, id: &str, script: &str) -> Result<Process> {
        self.create_from(id, &self.spec(id, script)).await
    }

    /// Container, task and streams for a spec; not started.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn create_from(&self, id: &str, spec: &Spec) -> Result<Process> {
        let container = self.container(id, spec).await?;
        let terminal = spec.has_terminal();
        let stdio = self.fifos(id, false, !terminal)?;
        let task = container.task(terminal, Vec::new(), stdio).await;
        task.with_context(|| format!("create task {id}"))
    }

    /// A handle of a process that may or may not exist; `exec` is empty for
    /// init.
    pub fn process(&self, id: &str, exec: &str) -> Process {
        Process::new(&self.api, id, exec, 0, Stdio::null())
    }

    /// [`create`](Self::create), then start.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn start_container(&self, id: &str, script: &str) -> Result<Process> {
        let mut task = self.create(id, script).await?;
        task.start().await.with_context(|| format!("start task {id}"))?;
        Ok(task)
    }

    /// FIFOs of their own name for a process.
    ///
    /// # Errors
    /// They exist.
    pub fn fifos(&self, name: &str, stdin: bool, stderr: bool) -> Result<Stdio> {
        Stdio::fifos(self.sandbox.folder(), name, stdin, stderr)
    }

    /// Deletes a task that has ended, and its container.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn remove(&self, task: &Process) -> Result<()> {
        task.delete().await.with_context(|| format!("delete task {}", task.container))?;
        self.remove_record(&task.container).await
    }

    /// Deletes a container without a task.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn remove_record(&self, id: &str) -> Result<()> {
        let request =
            containerd_api::services::containers::v1::DeleteContainerRequest { id: id.into() };
        self.api.containers().delete(request).await.with_context(|| format!("delete {id}"))?;
        Ok(())
    }

    /// Kills a task, waits for its end, and deletes it and its container.
    ///
    /// # Errors
    /// The daemon refuses, or the task did not die of the signal.
    pub async fn destroy(&self, task: &Process) -> Result<()> {
        self.load().destroy(task).await
    }

    /// A `ctr` for this daemon, in the namespace of this test.
    pub fn ctr(&self, origin: Origin) -> Ctr<'_> {
        self.ctr_in(origin, self.namespace())
    }

    /// A `ctr` for this daemon, in another namespace.
    pub fn ctr_in(&self, origin: Origin, namespace: &str) -> Ctr<'_> {
        Ctr::new(&self.sandbox, &self.daemon, origin).flags(&["--namespace", namespace])
    }

    /// The clients that can use images of this daemon.
    pub fn image_clients(&self) -> Vec<Ctr<'_>> {
        vec![self.ctr(Origin::Debian), self.ctr(Origin::Ours)]
    }
}

impl Drop for Bed {
    /// What the daemon has to say about a test that failed.
    fn drop(&mut self) {
        if self.failed || std::thread::panicking() {
            let log = self.daemon.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("{}; end of the daemon's log:\n{}", self.daemon.pairing(), tail.join("\n"));
        }
    }
}
