//! What the tests share: a daemon's surroundings in a folder of its own, with
//! a real ttrpc endpoint for events, and a root filesystem with busybox.

// Each test program uses a part of this.
#![allow(dead_code)]

pub(crate) mod fake;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protobuf::well_known_types::{any::Any as WireAny, empty::Empty};
use runtime_v2::{
    Any, CreateTask, EventSink, ExecProcess, Manager, ManagerConfig, Mount, Stdio, Timeouts,
};
use sha2::{Digest, Sha256};
use shim_protocol::{
    Id, Result, any,
    proto::{
        events_ttrpc::ForwardRequest,
        events_ttrpc_ttrpc::{Events, create_events},
        task_events::{TaskDelete, TaskExit},
    },
};
use tempfile::TempDir;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Notify,
};
use ttrpc::asynchronous::{Server, TtrpcContext};

/// Longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Debian's shim, written in Go.
pub(crate) const DEBIAN: &str = "/usr/bin/containerd-shim-runc-v2";
/// Where shims let runc keep its state, in a folder for each namespace.
const RUNC_ROOT: &str = "/run/containerd/runc";
/// The containers that tests make.
const CONTAINERS: [&str; 3] = ["a", "b", "c"];

/// Our own shim, once it is built beside the tests.
pub(crate) fn ours() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.ancestors().nth(2).unwrap().join("containerd-shim-runc-v2")
}

/// Makes one test of `$body` for each shim. One that is not installed is
/// skipped, which the test says.
#[macro_export]
macro_rules! for_each_shim {
    ($($body:ident),+ $(,)?) => {
        mod debian {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $body() {
                $crate::common::with_shim($crate::common::DEBIAN.as_ref(), super::$body).await;
            })+
        }
        mod ours {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $body() {
                $crate::common::with_shim(&$crate::common::ours(), super::$body).await;
            })+
        }
    };
}

/// Runs a test with a world of its own, which must be empty at the end.
pub(crate) async fn with_shim<F: Future<Output = World>>(
    shim: &Path,
    body: impl FnOnce(World) -> F,
) {
    if !shim.exists() {
        println!("skipped: {} is not installed", shim.display());
        return;
    }
    let world = tokio::time::timeout(PATIENCE * 2, body(World::new(shim).await));
    world.await.expect("the test hangs").ends_empty().await;
}

/// An event as the daemon got it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) container: String,
    /// The exec, or the container for init.
    pub(crate) process: String,
    pub(crate) pid: u32,
    pub(crate) status: u32,
}

/// All events, in order; an exit or delete that comes again is dropped, as the
/// daemon does it.
#[derive(Default)]
pub(crate) struct Log {
    events: Mutex<Vec<Event>>,
    announced: Mutex<HashSet<(String, String, String)>>,
    closed: Mutex<Vec<Id>>,
    more: Notify,
}

impl Log {
    fn add(&self, topic: &str, event: &WireAny) {
        let mut entry = Event {
            topic: topic.into(),
            container: String::new(),
            process: String::new(),
            pid: 0,
            status: 0,
        };
        if let Ok(exit) = any::unpack::<TaskExit>(event) {
            entry.container = exit.container_id;
            entry.process = exit.id;
            entry.pid = exit.pid;
            entry.status = exit.exit_status;
        } else if let Ok(delete) = any::unpack::<TaskDelete>(event) {
            entry.container = delete.container_id;
            entry.pid = delete.pid;
            entry.status = delete.exit_status;
        }
        self.note(entry);
    }

    fn note(&self, entry: Event) {
        let topic = entry.topic.as_str();
        let key = (entry.topic.clone(), entry.container.clone(), entry.process.clone());
        let once = matches!(topic, "/tasks/exit" | "/tasks/delete");
        if once && !self.announced.lock().unwrap().insert(key) {
            return;
        }
        self.events.lock().unwrap().push(entry);
        self.more.notify_waiters();
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The events of one topic.
    pub(crate) fn of(&self, topic: &str) -> Vec<Event> {
        self.all().into_iter().filter(|event| event.topic == topic).collect()
    }

    /// A shim says that init has ended.
    pub(crate) async fn exited(&self, container: &str, pid: u32, exit_status: u32) {
        let (container_id, id) = (container.to_owned(), container.to_owned());
        let exit = TaskExit { container_id, id, pid, exit_status, ..Default::default() };
        self.add("/tasks/exit", &any::pack(&exit).unwrap());
    }

    /// Whose end was to be announced with nothing said of it.
    pub(crate) fn closed(&self) -> Vec<Id> {
        self.closed.lock().unwrap().clone()
    }

    /// Waits for the exit of a process.
    pub(crate) async fn exit_of(&self, process: &str) -> Event {
        let wait = async {
            loop {
                let more = self.more.notified();
                let exits = self.of("/tasks/exit");
                if let Some(event) = exits.into_iter().find(|event| event.process == process) {
                    return event;
                }
                more.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("no exit was announced")
    }
}

#[async_trait]
impl EventSink for Log {
    async fn publish(&self, _namespace: &Id, topic: &str, event: Any) -> Result<()> {
        let wire = WireAny { type_url: event.type_url, value: event.value, ..Default::default() };
        self.add(topic, &wire);
        Ok(())
    }

    /// As the daemon, which knows how a task ended whose exit was announced.
    async fn close_task(&self, _namespace: &Id, id: &Id) -> Result<()> {
        self.closed.lock().unwrap().push(id.clone());
        let mut exits = self.of("/tasks/exit").into_iter();
        if let Some(exit) = exits.rfind(|exit| exit.process == id.as_str()) {
            self.note(Event { topic: "/tasks/delete".into(), process: String::new(), ..exit });
        }
        Ok(())
    }
}

struct Endpoint(Arc<Log>);

#[async_trait]
impl Events for Endpoint {
    async fn forward(&self, _ctx: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        self.0.add(&envelope.topic, &envelope.event.unwrap_or_default());
        Ok(Empty::default())
    }
}

/// A daemon's surroundings.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) namespace: Id,
    pub(crate) log: Arc<Log>,
    pub(crate) manager: Arc<Manager>,
    pub(crate) shim: PathBuf,
    pub(crate) timeouts: Timeouts,
    pub(crate) endpoint: Server,
}

impl World {
    pub(crate) async fn new(shim: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = id(&format!("t{}-{count}", std::process::id()));
        let folder = tempfile::Builder::new().prefix("rt").tempdir().unwrap();
        // Users that are mapped to others must be able to reach the root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let bin = folder.path().join("image/bin");
        fs::create_dir_all(&bin).unwrap();
        for sub in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(folder.path().join("image").join(sub)).unwrap();
        }
        install(Path::new("/bin/busybox"), &bin.join("busybox"));
        for name in ["sh", "sleep", "true", "false", "cat", "kill"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        let log = Arc::new(Log::default());
        let timeouts = Timeouts::default();
        let manager = Manager::new(config(folder.path(), timeouts), log.clone());
        let endpoint = serve_events(folder.path(), &log).await;
        Self { folder, namespace, log, manager, shim: shim.into(), timeouts, endpoint }
    }

    /// The daemon goes away and comes back: the endpoint for events, too.
    pub(crate) async fn restart(
        &mut self,
        meanwhile: impl AsyncFnOnce(&Self),
    ) -> runtime_v2::Recovered {
        self.stop().await;
        meanwhile(self).await;
        self.endpoint = serve_events(self.folder.path(), &self.log).await;
        self.manager = Manager::new(config(self.folder.path(), self.timeouts), self.log.clone());
        self.manager.recover().await.unwrap()
    }

    pub(crate) async fn stop(&mut self) {
        self.manager.shutdown().await;
        self.endpoint.shutdown().await.unwrap();
        let _ = fs::remove_file(self.folder.path().join("d.sock.ttrpc"));
    }

    /// Forgets the manager and makes one with other limits.
    pub(crate) async fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.manager.shutdown().await;
        self.timeouts = timeouts;
        self.manager = Manager::new(config(self.folder.path(), timeouts), self.log.clone());
    }

    pub(crate) fn bundle(&self, container: &str) -> PathBuf {
        self.folder.path().join("state").join(&self.namespace).join(container)
    }

    /// A request for a container that runs `script` in a shell.
    pub(crate) fn request(&self, container: &str, script: &str) -> CreateTask {
        CreateTask {
            namespace: self.namespace.clone(),
            id: id(container),
            runtime: self.shim.to_str().unwrap().into(),
            spec: spec(&self.cgroup(container), &["sh", "-c", script], &[]),
            options: None,
            rootfs: vec![Mount {
                kind: "bind".into(),
                source: self.folder.path().join("image").to_str().unwrap().into(),
                target: String::new(),
                options: vec!["rbind".into(), "rw".into()],
            }],
            stdio: Stdio::default(),
            checkpoint: None,
        }
    }

    pub(crate) fn cgroup(&self, container: &str) -> String {
        format!("/t-{}-{container}", self.namespace)
    }

    /// Writes a shim that is a shell script.
    pub(crate) fn script_shim(&self, script: &str) -> String {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
        let path = self.folder.path().join("containerd-shim-script-v1");
        install(&draft, &path);
        path.to_str().unwrap().into()
    }

    /// Pids of processes that carry our namespace on their command line: shims.
    pub(crate) fn shims(&self) -> Vec<i32> {
        processes(|cmdline, _| cmdline.split('\0').any(|arg| arg == self.namespace.as_str()))
    }

    /// Waits until a container has made the file `/tmp/<name>`.
    pub(crate) async fn said(&self, name: &str) {
        let file = self.folder.path().join("image/tmp").join(name);
        let there = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.expect("it never says so");
    }

    /// Pid of the shim of one container.
    pub(crate) fn shim_of(&self, container: &str) -> i32 {
        let mut pids = processes(|cmdline, _| {
            let mut args = cmdline.split('\0');
            args.clone().any(|arg| arg == self.namespace.as_str())
                && args.any(|arg| arg == container)
        });
        // A process that the shim has forked and that is about to be the container.
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        pids.retain(|pid| name(pid) != "shim-helper\n");
        assert_eq!(pids.len(), 1, "shims of {container}");
        pids[0]
    }

    /// Waits until a container's task and bundle are gone.
    pub(crate) async fn gone(&self, container: &str) {
        let gone = async {
            while self.manager.get(&self.namespace, &id(container)).is_ok()
                || self.bundle(container).exists()
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("it stays");
    }

    /// Nothing is left: no process, mount, bundle, socket or cgroup.
    pub(crate) async fn ends_empty(&self) {
        let root = self.folder.path().to_owned();
        assert_eq!(self.manager.namespaces(), Vec::<Id>::new());
        self.manager.shutdown().await;
        for kind in ["state", "root"] {
            assert_eq!(names_in(&root.join(kind).join(&self.namespace)), Vec::<String>::new());
        }
        assert_eq!(self.shims(), Vec::<i32>::new(), "a shim is left");
        let in_root = processes(|_, pid_root| pid_root.starts_with(&root));
        assert_eq!(in_root, Vec::<i32>::new(), "a container's process is left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<_> =
            mounts.lines().filter(|line| line.contains(root.to_str().unwrap())).collect();
        assert_eq!(left, Vec::<&str>::new(), "a mount is left");
        assert_eq!(names_in(&self.runc_root()), Vec::<String>::new(), "runc has something left");
        for container in CONTAINERS {
            assert!(!self.socket(container).exists(), "a socket is left");
            let cgroup = format!("/sys/fs/cgroup/memory{}", self.cgroup(container));
            assert!(!Path::new(&cgroup).exists(), "a cgroup is left");
        }
    }
}

impl World {
    fn runc_root(&self) -> PathBuf {
        Path::new(RUNC_ROOT).join(&self.namespace)
    }

    /// Where the shim of a container listens by custom.
    pub(crate) fn socket(&self, container: &str) -> PathBuf {
        let grpc = self.folder.path().join("d.sock").join(&self.namespace).join(container);
        let digest = Sha256::digest(grpc.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Path::new("/run/containerd/s").join(name)
    }

    /// Ends all containers of a test that has failed, without any manners.
    fn end_by_force(&self) {
        // Or the manager cleans up behind the shims, and with that makes some
        // folders again. In a runtime with one thread it does nothing now.
        let runtime = Handle::current();
        if runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
            tokio::task::block_in_place(|| runtime.block_on(self.manager.shutdown()));
        }
        let prefix = self.cgroup("");
        let ours = |name: &String| name.starts_with(prefix.trim_start_matches('/'));
        let end = |pid| {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        };
        self.shims().into_iter().for_each(end);
        for hierarchy in names_in("/sys/fs/cgroup".as_ref()) {
            let parent = Path::new("/sys/fs/cgroup").join(hierarchy);
            for cgroup in names_in(&parent).into_iter().filter(ours) {
                let pids = fs::read_to_string(parent.join(&cgroup).join("cgroup.procs"));
                let pids = pids.unwrap_or_default();
                pids.lines().filter_map(|pid| pid.parse().ok()).for_each(end);
            }
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = table.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for target in targets.filter(|target| Path::new(target).starts_with(self.folder.path())) {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
        for container in CONTAINERS {
            let _ = fs::remove_file(self.socket(container));
        }
    }
}

/// A test leaves nothing to the next, also when it has failed.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end_by_force();
        }
        // Shims never remove it.
        let _ = fs::remove_dir_all(self.runc_root());
    }
}

/// Copies a program, by a process of its own: had this one a descriptor to
/// write to the copy, a child that another test forks just then would have it
/// too, and what is open for writing cannot be executed.
pub(crate) fn install(from: &Path, to: &Path) {
    let status = Command::new("install").arg("-m755").args([from, to]).status().unwrap();
    assert!(status.success(), "install {}: {status}", to.display());
}

/// Pids of the processes that `wanted` picks by command line and root folder.
fn processes(wanted: impl Fn(&str, &Path) -> bool) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let cmdline = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let root = fs::read_link(entry.path().join("root")).unwrap_or_default();
        if wanted(&cmdline, &root) {
            pids.push(pid);
        }
    }
    pids
}

pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) fn id(text: &str) -> Id {
    Id::new("id", text).unwrap()
}

pub(crate) fn config(folder: &Path, timeouts: Timeouts) -> ManagerConfig {
    ManagerConfig {
        root: folder.join("root"),
        state: folder.join("state"),
        grpc_address: folder.join("d.sock").to_str().unwrap().into(),
        ttrpc_address: folder.join("d.sock.ttrpc").to_str().unwrap().into(),
        env: Vec::new(),
        debug: false,
        timeouts,
    }
}

async fn serve_events(folder: &Path, log: &Arc<Log>) -> Server {
    let address = format!("unix://{}", folder.join("d.sock.ttrpc").display());
    let service = create_events(Arc::new(Endpoint(log.clone())));
    let mut server = Server::new().bind(&address).unwrap().register_service(service);
    server.start().await.unwrap();
    server
}

/// A runtime configuration for busybox.
pub(crate) fn spec(cgroup: &str, args: &[&str], annotations: &[(&str, &str)]) -> Vec<u8> {
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": "rootfs" },
        "hostname": "t",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
        ],
        "annotations": annotations,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "network" },
            ],
        },
    });
    serde_json::to_vec(&spec).unwrap()
}

fn process(args: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
    })
}

/// A request for an exec that runs `script` in a shell.
pub(crate) fn exec(name: &str, script: &str) -> ExecProcess {
    let value = serde_json::to_vec(&process(&["sh", "-c", script])).unwrap();
    ExecProcess {
        exec_id: id(name),
        spec: Any { type_url: any::OCI_PROCESS_URL.into(), value },
        stdio: Stdio::default(),
    }
}
