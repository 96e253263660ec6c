//! A stub of an OCI runtime: its processes are real, and each of its verbs can
//! be told to fail.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use shim_protocol::{
    Context as _, Error, ErrorKind, Id, Result, any, proto::task_events::TaskExit,
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::{
    bundle,
    events::Outbox,
    io::Stdio,
    kernel::is_exiting,
    options::RuntimeOptions,
    reaper::Reaper,
    runtime::{self, Checkpoint, ContainerState, Exec, Restore, Runtime, Started},
    sys::{process, wait},
    task::{Container, Context, Create, ExecSpec, Tasks},
    testing,
};

/// An OCI runtime whose init sleeps, and whose execs are `sh` scripts.
pub(super) struct Stub {
    pub(super) reaper: Arc<Reaper>,
    pub(super) init: Mutex<Option<u32>>,
    pub(super) calls: Mutex<Vec<&'static str>>,
    /// The verb that fails from now on.
    pub(super) broken: Mutex<Option<&'static str>>,
    /// The verbs that never come to an end.
    pub(super) hanging: Mutex<Vec<&'static str>>,
    /// Pids of execs, which a kill of all processes ends too.
    pub(super) execs: Mutex<Vec<u32>>,
    /// What the next exec waits for.
    pub(super) gate: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Stub {
    pub(super) async fn call(&self, verb: &'static str) -> Result<()> {
        self.calls.lock().unwrap().push(verb);
        let hangs = self.hanging.lock().unwrap().contains(&verb);
        if hangs {
            std::future::pending::<()>().await;
        }
        match *self.broken.lock().unwrap() {
            Some(broken) if broken == verb => Err(Error::new(ErrorKind::Unknown, "broken")),
            _ => Ok(()),
        }
    }

    pub(super) fn break_verb(&self, verb: Option<&'static str>) {
        *self.broken.lock().unwrap() = verb;
    }

    pub(super) fn hang(&self, verbs: &[&'static str]) {
        *self.hanging.lock().unwrap() = verbs.to_vec();
    }

    pub(super) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    pub(super) fn spawn(&self, script: &str) -> Result<Started> {
        let child = self.reaper.spawn(&mut testing::sh(script))?;
        Ok(Started { pid: child.pid, exit: child.exit })
    }
}

#[async_trait]
impl Runtime for Stub {
    async fn create(&self, _: &Id, _: runtime::Create<'_>) -> Result<Started> {
        self.call("create").await?;
        let started = self.spawn("exec sleep 1000")?;
        *self.init.lock().unwrap() = Some(started.pid);
        Ok(started)
    }

    async fn start(&self, _: &Id) -> Result<()> {
        self.call("start").await
    }

    async fn exec(&self, _: &Id, request: Exec<'_>) -> Result<Started> {
        self.call("exec").await?;
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.await.unwrap();
        }
        let process: serde_json::Value = serde_json::from_slice(request.process).unwrap();
        let started = self.spawn(process["args"][0].as_str().unwrap())?;
        self.execs.lock().unwrap().push(started.pid);
        Ok(started)
    }

    async fn kill(&self, _: &Id, signal: u32, all: bool) -> Result<()> {
        self.call("kill").await?;
        if all {
            for pid in self.execs.lock().unwrap().drain(..) {
                process::kill(pid, signal).unwrap();
            }
        }
        let pid = self.init.lock().unwrap().unwrap();
        process::kill(pid, signal).map_err(|_| Error::not_found("no process"))
    }

    async fn delete(&self, _: &Id, force: bool) -> Result<()> {
        self.call("delete").await?;
        let init = self.init.lock().unwrap().filter(|_| force);
        init.map_or(Ok(()), |pid| process::kill(pid, KILL).context("kill", pid))
    }

    async fn pause(&self, _: &Id) -> Result<()> {
        self.call("pause").await
    }

    async fn resume(&self, _: &Id) -> Result<()> {
        self.call("resume").await
    }

    async fn update(&self, _: &Id, _: &[u8]) -> Result<()> {
        self.call("update").await
    }

    async fn can_checkpoint(&self) -> Result<()> {
        self.call("can_checkpoint").await
    }

    async fn checkpoint(&self, _: &Id, request: &Checkpoint) -> Result<()> {
        let init = self.init.lock().unwrap().filter(|_| request.exit);
        if let Some(pid) = init {
            process::kill(pid, KILL).context("kill", pid)?;
            while !is_exiting(pid) {
                tokio::task::yield_now().await;
            }
        }
        self.call("checkpoint").await
    }

    async fn restore(&self, _: &Id, request: Restore<'_>) -> Result<Started> {
        tokio::select! {
            restored = self.call("restore") => restored?,
            () = request.give_up.cancelled() => {
                return Err(Error::new(ErrorKind::Unknown, "given up"));
            }
        }
        let started = self.spawn("exec sleep 1000")?;
        *self.init.lock().unwrap() = Some(started.pid);
        Ok(started)
    }

    async fn ps(&self, _: &Id) -> Result<Vec<u32>> {
        self.call("ps").await?;
        Ok(self.init.lock().unwrap().into_iter().collect())
    }

    async fn state(&self, _: &Id) -> Result<ContainerState> {
        Err(Error::unimplemented("state"))
    }

    async fn features(&self) -> Result<Vec<u8>> {
        Err(Error::unimplemented("features"))
    }
}

/// Everything one test needs.
pub(super) struct Bench {
    pub(super) tasks: Arc<Tasks>,
    pub(super) stub: Arc<Stub>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) bundle: tempfile::TempDir,
}

pub(super) fn id(text: &str) -> Id {
    Id::new("id", text).unwrap()
}

impl Bench {
    pub(super) fn new(reaper: Arc<Reaper>) -> Self {
        let outbox = Arc::new(Outbox::new(id("ns")));
        let stub = Arc::new(Stub {
            reaper: Arc::clone(&reaper),
            init: Mutex::default(),
            calls: Mutex::default(),
            broken: Mutex::default(),
            hanging: Mutex::default(),
            execs: Mutex::default(),
            gate: Mutex::default(),
        });
        let runtime = Arc::clone(&stub) as Arc<dyn Runtime>;
        let tasks = tasks(&reaper, &outbox, runtime);
        let bundle = tempfile::tempdir().unwrap();
        let config = r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#;
        fs::write(bundle.path().join("config.json"), config).unwrap();
        Self { tasks, stub, outbox, bundle }
    }

    /// Has containers made by another runtime than the stub.
    pub(super) fn use_runtime(&mut self, runtime: Arc<dyn Runtime>) {
        self.tasks = tasks(&self.stub.reaper, &self.outbox, runtime);
    }

    pub(super) fn request(&self) -> Create {
        Create {
            id: id("c"),
            bundle: self.bundle.path().to_owned(),
            rootfs: Vec::new(),
            stdio: Stdio::default(),
            restore: None,
            options: RuntimeOptions::default(),
        }
    }

    pub(super) async fn running(&self) -> Arc<Container> {
        let container = self.tasks.create(self.request()).await.unwrap();
        container.start(None).await.unwrap();
        container
    }

    /// Topics published since the last call, with the id of an exit.
    pub(super) fn events(&self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(request) = self.outbox.oldest() {
            self.outbox.taken();
            let envelope = request.envelope.unwrap();
            let topic = envelope.topic.trim_start_matches("/tasks/");
            events.push(match any::unpack::<TaskExit>(&envelope.event) {
                Ok(exit) => format!("{topic} {} {}", exit.id, exit.exit_status),
                Err(_) => topic.to_owned(),
            });
        }
        events
    }
}

impl Drop for Bench {
    /// Ends an init that a real runtime has made. Those of the stub end by themselves.
    fn drop(&mut self) {
        let init = bundle::Bundle::new(self.bundle.path()).init_pid().unwrap();
        if let Some(pid) = init.filter(|pid| wait::is_child(*pid)) {
            process::kill(pid, KILL).unwrap();
        }
    }
}

fn tasks(reaper: &Arc<Reaper>, outbox: &Arc<Outbox>, runtime: Arc<dyn Runtime>) -> Arc<Tasks> {
    Arc::new(Tasks::new(Context {
        namespace: id("ns"),
        reaper: Arc::clone(reaper),
        outbox: Arc::clone(outbox),
        runtimes: Box::new(move |_, _| Arc::clone(&runtime)),
        background: TaskTracker::new(),
    }))
}

pub(super) fn exec(script: &str) -> ExecSpec {
    let process = serde_json::json!({ "args": [script] }).to_string().into_bytes();
    ExecSpec { process, stdio: Stdio::default() }
}

pub(super) const KILL: u32 = nix::libc::SIGKILL as u32;
