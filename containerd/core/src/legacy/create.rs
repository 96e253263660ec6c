//! Making and starting a container, and taking one away.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use nix::sys::signal::Signal;
use runtime_v2::{Any, Process, Status as TaskStatus, Stdio, Task, Undo};
use shim_protocol::{Context, Error, ErrorKind, Id, Result};
use tokio::time::timeout;

use super::{
    CLEANUP, Create, Legacy, Streams, blocking,
    bundle::{self, Bundle},
    checkpoint, container_id,
    events::OUTPUT,
    late, or_gone, record,
};
use crate::{
    containers,
    tasks::{self, Target},
};

/// Type of a container's spec (containerd, `pkg/oci`).
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

impl Legacy {
    /// Makes a container from a bundle and starts it; answers the pid of its
    /// first process. One of the same name that has ended makes room. If it
    /// fails, nothing of it is left; if the caller goes away once it has begun, it
    /// goes on.
    ///
    /// # Errors
    /// - `NotFound` when there is no bundle, or no such checkpoint in it;
    /// - `AlreadyExists` when there is such a container;
    /// - `InvalidArgument` when the name, the paths or the configuration make
    ///   no sense;
    /// - what [`Tasks::create`](tasks::Tasks::create) and
    ///   [`Tasks::start`](tasks::Tasks::start) say.
    pub async fn create(self: &Arc<Self>, request: Create) -> Result<u32> {
        let id = container_id(&request.id)?;
        if request.bundle.is_empty() {
            return Err(Error::invalid("empty bundle path"));
        }
        // As containerd's clients name those of theirs.
        let cgroup = format!("/{}/{id}", self.config.namespace);
        let path = request.bundle.clone();
        let load = move || bundle::load(Path::new(&path), &cgroup);
        let bundle = blocking("read", &request.bundle, load).await?;
        let stdio = request.streams.stdio(bundle.init.terminal).await?;
        let options = match request.checkpoint.as_str() {
            "" => None,
            name => Some(self.restore_from(&bundle.path, name).await?),
        };
        let (this, held) = (self.clone(), self.hold(&id).await?);
        self.own(async move {
            let _held = held;
            this.make_room(&id).await?;
            this.start(&id, bundle, stdio, options).await
        })
        .await
        .context("create container", format_args!("{:?}", request.id))
    }

    async fn start(
        self: &Arc<Self>,
        id: &Id,
        bundle: Bundle,
        stdio: Stdio,
        options: Option<Any>,
    ) -> Result<u32> {
        let container = self.describe(id, bundle)?;
        // Of another of that name.
        self.unseen.forget(id);
        let mut undo = Undo::new(&self.work, CLEANUP);
        let namespace = &self.config.namespace;
        self.containers.create(namespace, container).await?;
        let target = self.target(id, None);
        let (this, failed) = (self.clone(), target.clone());
        undo.push("record", async move { this.forget_failed(&failed).await });
        let started = async {
            let create = tasks::Create {
                namespace: namespace.clone(),
                container: id.clone(),
                rootfs: Vec::new(),
                stdio,
                options,
                runtime_path: String::new(),
                checkpoint: None,
                task_api_address: String::new(),
            };
            self.tasks.create(create).await?;
            let (this, failed) = (self.clone(), target.clone());
            undo.push("task", async move { this.end_failed(&failed).await });
            self.tasks.start(&target).await
        };
        let started = started.await;
        undo.settle(started).await
    }

    pub(super) fn describe(&self, id: &Id, bundle: Bundle) -> Result<containers::Container> {
        let (name, value) = record::bundle(bundle.path)?;
        Ok(containers::Container {
            id: id.clone(),
            labels: BTreeMap::new(),
            image: String::new(),
            runtime: containers::Runtime {
                name: self.config.runtime.clone(),
                options: checkpoint::runtime_options(&self.config.binary),
            },
            spec: Some(Any { type_url: SPEC.to_owned(), value: bundle.spec }),
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
            extensions: BTreeMap::from([(name, value)]),
            sandbox: String::new(),
        })
    }

    /// Takes away a container of ours that has ended, or whose start has not
    /// come to its end; refuses if it is in use.
    async fn make_room(&self, id: &Id) -> Result<()> {
        let exists = || Error::already_exists(format!("container {id:?}"));
        let record = match self.record(id).await {
            Ok(record) => record,
            // A task may be left of a container whose record was removed.
            Err(e) if e.is_not_found() && self.has_task(id) => return Err(exists()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        if !record.is_ours() {
            return Err(exists());
        }
        let (task, process) = self.task(id).await;
        match process {
            Ok(process) if process.status == TaskStatus::Stopped => {}
            Ok(_) => return Err(exists()),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        self.remove(id, task).await?;
        // What was made of the record meanwhile is kept with it.
        match self.has_task(id) {
            true => Err(exists()),
            false => Ok(()),
        }
    }

    /// A container's task, if there is one, and the state of its init.
    pub(super) async fn task(&self, id: &Id) -> (Option<Arc<Task>>, Result<Process>) {
        let target = self.target(id, None);
        match self.tasks.of(&target) {
            Ok(task) => {
                let process = task.state(None).await.context("state of", &target);
                (Some(task), process)
            }
            Err(e) => (None, Err(e)),
        }
    }

    fn has_task(&self, id: &Id) -> bool {
        self.tasks.has(&self.config.namespace, id)
    }

    /// Takes away what is left of a container that has ended: the task, if one was
    /// found, and the record, unless another task was made of it meanwhile. Its
    /// lock is held, which other APIs do not know.
    pub(super) async fn remove(&self, id: &Id, found: Option<Arc<Task>>) -> Result<()> {
        // With the container its shim goes, and what that has not written yet of
        // added processes. Whoever does not read has had time after this.
        let _ = timeout(OUTPUT, self.ends.execs_over(id)).await;
        if let Some(task) = found {
            or_gone(task.delete().await.context("delete task", id))?;
        }
        match self.has_task(id) {
            true => Ok(()),
            false => self.remove_record(id).await,
        }
    }

    /// Takes away a container, whatever it does. Its lock is held.
    pub(super) async fn end(&self, id: &Id) -> Result<()> {
        self.kill_and_delete(&self.target(id, None)).await?;
        self.remove_record(id).await
    }

    async fn remove_record(&self, id: &Id) -> Result<()> {
        or_gone(self.containers.delete(&self.config.namespace, id).await)?;
        self.unseen.forget(id);
        Ok(())
    }

    /// Removes what is recorded of a process whose start has failed. If it could
    /// not be removed itself, nobody but the keeper would do so: it needs both.
    pub(super) async fn forget_failed(&self, target: &Target) -> Result<()> {
        let kept = match self.tasks.get(target).await {
            Err(e) if e.is_not_found() => match &target.exec {
                // Its making goes on without us.
                None if self.has_task(&target.container) => {
                    Error::precondition(format!("{target} is being made"))
                }
                None => return self.remove_record(&target.container).await,
                Some(_) => return self.forget_process(target).await,
            },
            Err(e) => e,
            Ok(_) => Error::precondition(format!("{target} is still there")),
        };
        self.look_again(&target.container);
        self.unwant(target).await?;
        Err(kept)
    }

    /// Takes away a process whose start has failed. One whose shim is slow may
    /// yet run, whoever looks at it then.
    pub(super) async fn end_failed(&self, target: &Target) -> Result<()> {
        let noted = self.unwant(target).await;
        self.kill_and_delete(target).await?;
        noted
    }

    /// Notes that the keeper has to end a process, whatever it does.
    pub(super) async fn unwant(&self, target: &Target) -> Result<()> {
        let noted = record::unwanted(target.exec.as_ref())?;
        or_gone(self.extend(&target.container, noted).await)
    }

    /// Kills a task or an exec, if it runs, and deletes it.
    pub(super) async fn kill_and_delete(&self, target: &Target) -> Result<()> {
        let is_init = target.exec.is_none();
        match self.tasks.kill(target, Signal::SIGKILL as u32, is_init).await {
            Ok(()) => {
                let ended = timeout(CLEANUP, self.tasks.wait(target)).await;
                or_gone(ended.map_err(|_| late(target, CLEANUP))?)?;
            }
            // It may never have run.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition) => {}
            Err(e) => return Err(e),
        }
        if is_init {
            or_gone(self.tasks.delete(target).await)
        } else {
            or_gone(self.tasks.delete_process(target).await)
        }
    }

    /// What is recorded of a container, ours or another's.
    pub(super) async fn record(&self, id: &Id) -> Result<record::Record> {
        let container = self.containers.get(&self.config.namespace, id).await?;
        record::Record::read(&container)
    }
}

impl Streams {
    /// The streams of a process, for a shim.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is not absolute; `NotFound` for one
    /// with nothing there.
    pub(super) async fn stdio(&self, terminal: bool) -> Result<Stdio> {
        if terminal && !self.console.is_empty() {
            let console = existing("console", &self.console).await?;
            return Ok(Stdio {
                stdin: console.clone(),
                stdout: console,
                stderr: String::new(),
                terminal,
            });
        }
        let output = async |what, path: &str| match existing(what, path).await {
            // The shim makes what is named by a URI.
            Err(e) if e.is_not_found() && self.make_files => Ok(format!("file://{}", quote(path))),
            found => found,
        };
        Ok(Stdio {
            stdin: existing("stdin", &self.stdin).await?,
            stdout: output("stdout", &self.stdout).await?,
            stderr: if terminal { String::new() } else { output("stderr", &self.stderr).await? },
            terminal,
        })
    }
}

/// A shim knows more than paths; the APIs of 2015 do not.
async fn existing(what: &str, path: &str) -> Result<String> {
    if path.is_empty() {
        return Ok(String::new());
    }
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(format!("{what} {path:?} is no absolute path")));
    }
    let exists = blocking("look for", path, {
        let path = path.to_owned();
        move || Path::new(&path).try_exists().context("look for", path)
    });
    if !exists.await? {
        return Err(Error::not_found(format!("{what} {path:?}")));
    }
    // A shim would take this for a URI, although nothing begins like that.
    Ok(if path.contains("://") { format!("fifo://{}", quote(path)) } else { path.to_owned() })
}

/// A path as part of a URI (RFC 3986, section 2.1).
fn quote(path: &str) -> String {
    let mut quoted = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                quoted.push(char::from(byte));
            }
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_are_paths_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("a"), "").unwrap();
        let streams = |stdout: &str, make_files| Streams {
            stdout: stdout.to_owned(),
            make_files,
            ..Streams::default()
        };
        let plain = streams(&path("a"), false).stdio(false).await.unwrap();
        assert_eq!((plain.stdout, plain.stderr), (path("a"), String::new()));
        let missing = streams(&path("b c"), false).stdio(false).await.unwrap_err();
        assert!(missing.is_not_found());
        let made = streams(&path("b c"), true).stdio(false).await.unwrap();
        assert_eq!(made.stdout, format!("file://{}", path("b%20c")));
        for bad in ["binary:///bin/true", "relative", "file:///tmp/x", "/a\0b"] {
            let error = streams(bad, true).stdio(false).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_console_stands_for_all_streams_of_a_terminal() {
        let streams = Streams {
            console: "/dev/null".into(),
            stdout: "/nowhere".into(),
            ..Streams::default()
        };
        let stdio = streams.stdio(true).await.unwrap();
        assert_eq!((stdio.stdin.as_str(), stdio.stdout.as_str()), ("/dev/null", "/dev/null"));
        assert!(streams.stdio(false).await.unwrap_err().is_not_found());
    }
}
