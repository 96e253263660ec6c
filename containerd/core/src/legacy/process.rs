//! Processes of a container: added, signalled, frozen.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::libc::SIGRTMAX;
use runtime_v2::{Any, ExecProcess, Status as TaskStatus, Undo};
use serde_json::{Map, Value};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::{
    CLEANUP, Legacy, Process, ProcessSpec, Streams, container_id, or_gone,
    record::{self, Extension, Record},
};
use crate::{containers, tasks::Target};

/// Type of an exec's spec (containerd, `pkg/oci`).
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

impl Legacy {
    /// Adds a process to a container; answers it with its pid. What the
    /// request does not say (capabilities, limits) is as with the container's
    /// own process.
    ///
    /// # Errors
    /// `NotFound` for the container; `InvalidArgument` when there is no
    /// program to run or a path makes no sense; `FailedPrecondition` when the
    /// container does not run; and what the shim says.
    pub async fn add_process(
        self: &Arc<Self>,
        container: &str,
        mut spec: ProcessSpec,
        streams: Streams,
    ) -> Result<Process> {
        let id = container_id(container)?;
        if spec.args.is_empty() {
            return Err(Error::invalid("a process needs args"));
        }
        if spec.cwd.is_empty() {
            spec.cwd = "/".to_owned();
        }
        let stdio = streams.stdio(spec.terminal).await?;
        let namespace = &self.config.namespace;
        let found = self.containers.get(namespace, &id).await?;
        let request = ExecProcess { exec_id: new_exec()?, spec: exec_spec(&found, &spec)?, stdio };
        // The keeper would take a record without a process for a leftover.
        let (this, held) = (self.clone(), self.hold(&id).await?);
        let pid = self
            .own({
                let (id, spec) = (id.clone(), spec.clone());
                async move {
                    let _held = held;
                    this.run(&id, request, &spec).await
                }
            })
            .await
            .context("add a process to container", format_args!("{id:?}"))?;
        Ok(Process { pid, spec })
    }

    /// Recorded before it runs: a daemon that dies in between must know it. The
    /// container's lock is held.
    async fn run(
        self: &Arc<Self>,
        id: &Id,
        request: ExecProcess,
        spec: &ProcessSpec,
    ) -> Result<u32> {
        let exec = request.exec_id.clone();
        let target = self.target(id, Some(exec.clone()));
        // Nothing is recorded for a container that could not take it.
        let init = self.tasks.get(&self.target(id, None)).await?;
        if init.status != TaskStatus::Running {
            return Err(Error::precondition(format!("the container is {:?}", init.status)));
        }
        let mut undo = Undo::new(&self.work, CLEANUP);
        self.extend(id, record::process(&exec, spec)?).await?;
        let (this, failed) = (self.clone(), target.clone());
        undo.push("record", async move { this.forget_failed(&failed).await });
        let started = async {
            self.tasks.exec(&target, request).await?;
            let (this, failed) = (self.clone(), target.clone());
            undo.push("exec", async move { this.end_failed(&failed).await });
            self.tasks.start(&target).await
        };
        let started = started.await;
        undo.settle(started).await
    }

    /// Signals the process of a container that has `pid`; 0 is its first one.
    ///
    /// # Errors
    /// `NotFound` for the container, or when none of its processes has the
    /// pid; `InvalidArgument` for a signal that does not exist.
    pub async fn signal(&self, container: &str, pid: u32, signal: u32) -> Result<()> {
        check_signal(signal)?;
        let id = container_id(container)?;
        let record = self.record(&id).await?;
        let target = self.find(&record, pid).await?.ok_or_else(|| {
            Error::not_found(format!("process with pid {pid} in container {id:?}"))
        })?;
        self.tasks.kill(&target, signal, false).await
    }

    /// Freezes a container or lets it go on, and signals its first process, if
    /// that is asked for.
    ///
    /// # Errors
    /// `NotFound` for the container; `InvalidArgument` for a status other than
    /// `running` and `paused`, or a signal that does not exist;
    /// `FailedPrecondition` when it has that status already.
    pub async fn update(&self, container: &str, status: &str, signal: u32) -> Result<()> {
        if !matches!(status, "" | "running" | "paused") {
            return Err(Error::invalid(format!(
                "status {status:?} is neither \"running\" nor \"paused\""
            )));
        }
        if signal != 0 {
            check_signal(signal)?;
        }
        let id = container_id(container)?;
        self.record(&id).await?;
        let target = self.target(&id, None);
        match status {
            "running" => self.tasks.resume(&target).await?,
            "paused" => self.tasks.pause(&target).await?,
            _ => {}
        }
        if signal != 0 {
            self.tasks.kill(&target, signal, false).await?;
        }
        Ok(())
    }

    /// The process with a pid, if it runs.
    async fn find(&self, record: &Record, pid: u32) -> Result<Option<Target>> {
        let execs = record.processes.keys().cloned().map(Some);
        for exec in std::iter::once(None).chain(execs) {
            let target = self.target(&record.id, exec);
            match self.tasks.get(&target).await {
                // Its pid may be another's by now.
                Ok(process) if process.status == TaskStatus::Stopped => {}
                Ok(process) if process.pid == pid || pid == 0 => return Ok(Some(target)),
                Ok(_) => {}
                // It has just ended, and with init all have.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
            if pid == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// Puts an extension into a container's record.
    pub(super) async fn extend(&self, id: &Id, (name, value): Extension) -> Result<()> {
        let mut container = self.containers.get(&self.config.namespace, id).await?;
        container.extensions.insert(name.clone(), value);
        self.put_extensions(container, &[name]).await
    }

    /// Removes what is recorded of an exec.
    pub(super) async fn forget_process(&self, target: &Target) -> Result<()> {
        let Some(exec) = &target.exec else { return Ok(()) };
        let names = [record::process_name(exec), record::unwanted_name(Some(exec))];
        let forgotten = async {
            let mut container = self.containers.get(&target.namespace, &target.container).await?;
            let before = container.extensions.len();
            container.extensions.retain(|name, _| !names.contains(name));
            if container.extensions.len() == before {
                return Ok(());
            }
            self.put_extensions(container, &names).await
        };
        or_gone(forgotten.await)?;
        self.unseen.forget_process(&target.container, Some(exec));
        Ok(())
    }

    /// Only these are changed, whatever else was read.
    async fn put_extensions(
        &self,
        container: containers::Container,
        names: &[String],
    ) -> Result<()> {
        let paths: Vec<_> = names.iter().map(|name| format!("extensions.{name}")).collect();
        self.containers.update(&self.config.namespace, container, &paths).await.map(drop)
    }
}

fn check_signal(signal: u32) -> Result<()> {
    let last = u32::try_from(SIGRTMAX()).unwrap_or_default();
    if (1..=last).contains(&signal) {
        return Ok(());
    }
    Err(Error::invalid(format!("signal {signal} is not between 1 and {last}")))
}

/// Never the same one twice, also not by the next daemon.
fn new_exec() -> Result<Id> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Id::new("exec id", &format!("legacy-{:x}-{number:x}", since.as_nanos()))
}

/// The container's own process, with what the request says in its place.
fn exec_spec(container: &containers::Container, spec: &ProcessSpec) -> Result<Any> {
    let encode = |e| Error::caused(ErrorKind::Internal, "encode a process", e);
    let own = container.spec.as_ref().and_then(|spec| {
        let config: Map<String, Value> = serde_json::from_slice(&spec.value).ok()?;
        config.get("process")?.as_object().cloned()
    });
    let mut process = own.unwrap_or_default();
    for inherited in ["consoleSize", "commandLine"] {
        process.remove(inherited);
    }
    if let Value::Object(asked) = serde_json::to_value(spec).map_err(encode)? {
        process.extend(asked);
    }
    let value = serde_json::to_vec(&process).map_err(encode)?;
    Ok(Any { type_url: PROCESS.to_owned(), value })
}
