//! What the tests share: the core of a daemon in folders of its own, with a
//! real ttrpc endpoint for events, and a root filesystem with busybox.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use containerd_core::{
    Any,
    announce::Announcer,
    containers::{Container, Containers, Runtime},
    content::{Content, ContentConfig, Sharing},
    diff::{Diff, DiffConfig},
    events::{Envelope, Exchange, ExchangeConfig, Subscribe, Subscription, Timestamp},
    metadata::Db,
    namespaces::Namespaces,
    tasks::{Create, Mount, Stdio, Target, Tasks, TasksConfig},
};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protobuf::well_known_types::empty::Empty;
use runtime_v2::{Manager, ManagerConfig, Timeouts};
use shim_protocol::{
    Id, any,
    proto::{
        events_ttrpc::ForwardRequest,
        events_ttrpc_ttrpc::{Events, create_events},
    },
};
use tempfile::TempDir;
use tokio::runtime::Handle;
use ttrpc::asynchronous::{Server, TtrpcContext};

/// Longer than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Debian's shim, written in Go.
const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// Where shims let runc keep its state, in a folder for each namespace.
const RUNC_ROOT: &str = "/run/containerd/runc";

/// Can containers be run here? Says so if not.
pub(crate) fn skip() -> bool {
    let missing = ["/usr/sbin/runc", SHIM, "/bin/busybox"].iter().find(|p| !Path::new(p).exists());
    if let Some(missing) = missing {
        println!("skipped: {missing} is not installed");
    }
    missing.is_some()
}

/// Folders that outlive the daemon.
pub(crate) struct World {
    folder: TempDir,
    pub(crate) namespace: Id,
}

/// A running daemon's core.
pub(crate) struct Daemon {
    endpoint: Server,
    announcer: Announcer,
    db: Db,
    pub(crate) events: Arc<Exchange>,
    pub(crate) namespaces: Namespaces,
    pub(crate) containers: Containers,
    pub(crate) content: Content,
    pub(crate) manager: Arc<Manager>,
    pub(crate) tasks: Arc<Tasks>,
}

struct Endpoint(Arc<Exchange>);

#[async_trait]
impl Events for Endpoint {
    async fn forward(&self, _ctx: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let event = envelope.event.unwrap_or_default();
        let sent = envelope.timestamp.unwrap_or_default();
        self.0.forward(Envelope {
            timestamp: Timestamp::from_parts(sent.seconds, sent.nanos),
            namespace: Id::new("namespace", &envelope.namespace)?,
            topic: envelope.topic,
            event: Any { type_url: event.type_url, value: event.value },
        })?;
        Ok(Empty::default())
    }
}

impl World {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = id(&format!("core{}-{count}", std::process::id()));
        let folder = tempfile::Builder::new().prefix("core").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let image = folder.path().join("image");
        fs::create_dir_all(image.join("bin")).unwrap();
        for sub in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(image.join(sub)).unwrap();
        }
        install(Path::new("/bin/busybox"), &image.join("bin/busybox"));
        for name in ["sh", "sleep", "cat"] {
            symlink("busybox", image.join("bin").join(name)).unwrap();
        }
        Self { folder, namespace }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon, after it has taken over what there is.
    pub(crate) async fn boot(&self) -> Daemon {
        let path = self.folder.path();
        let config =
            ExchangeConfig { journal: path.join("journal"), boot_replay: Duration::from_secs(30) };
        let events = Exchange::open(config).unwrap();
        events.serve();
        let db = Db::open(&path.join("db")).await.unwrap();
        let announcer = Announcer::start(events.clone());
        let namespaces = Namespaces::new(db.clone(), announcer.clone());
        let containers = Containers::new(db.clone(), announcer.clone());
        let socket = path.join("d.sock.ttrpc");
        drop(fs::remove_file(&socket));
        let service = create_events(Arc::new(Endpoint(events.clone())));
        let address = format!("unix://{}", socket.display());
        let mut endpoint = Server::new().bind(&address).unwrap().register_service(service);
        endpoint.start().await.unwrap();
        let config = ManagerConfig {
            root: path.join("root"),
            state: path.join("state"),
            grpc_address: path.join("d.sock").to_str().unwrap().into(),
            ttrpc_address: socket.to_str().unwrap().into(),
            env: Vec::new(),
            debug: false,
            timeouts: Timeouts::default(),
        };
        let content = ContentConfig {
            root: path.join("content"),
            sharing: Sharing::default(),
            foreign: false,
        };
        let content = Content::open(content, db.clone()).await.unwrap();
        let diff = Diff::new(DiffConfig { sync: false }, content.clone());
        let manager = Manager::new(config, events.clone());
        manager.recover().await.unwrap();
        let config = TasksConfig {
            default_runtime: SHIM.into(),
            state_timeout: Duration::from_secs(2),
            concurrency: 0,
        };
        let tasks = Tasks::new(
            config,
            containers.clone(),
            namespaces.clone(),
            manager.clone(),
            events.clone(),
            diff,
        );
        Daemon { endpoint, announcer, db, events, namespaces, containers, content, manager, tasks }
    }

    pub(crate) fn target(&self, container: &str) -> Target {
        Target { namespace: self.namespace.clone(), container: id(container), exec: None }
    }

    pub(crate) fn exec(&self, container: &str, exec: &str) -> Target {
        Target { exec: Some(id(exec)), ..self.target(container) }
    }

    pub(crate) fn create(&self, container: &str) -> Create {
        Create {
            namespace: self.namespace.clone(),
            container: id(container),
            rootfs: vec![Mount {
                kind: "bind".into(),
                source: self.path().join("image").to_str().unwrap().into(),
                target: String::new(),
                options: vec!["rbind".into(), "rw".into()],
            }],
            stdio: Stdio::default(),
            options: None,
            runtime_path: String::new(),
            checkpoint: None,
            task_api_address: String::new(),
        }
    }

    /// The record of a container that runs `script` in a shell. `root` is a
    /// folder for its root, or `rootfs` for what is mounted in the bundle.
    pub(crate) fn container(&self, container: &str, root: &Path, script: &str) -> Container {
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": process(script),
            "root": { "path": root },
            "hostname": "t",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": {
                "cgroupsPath": format!("/t-{}-{container}", self.namespace),
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network" },
                ],
            },
        });
        let value = serde_json::to_vec(&spec).unwrap();
        Container {
            id: id(container),
            labels: Default::default(),
            image: String::new(),
            runtime: Runtime { name: SHIM.into(), options: None },
            spec: Some(Any { type_url: any::OCI_SPEC_URL.into(), value }),
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
            extensions: Default::default(),
            sandbox: String::new(),
        }
    }

    /// Nothing of the containers is left.
    pub(crate) fn ends_empty(self) {
        for kind in ["state", "root"] {
            let folder = self.path().join(kind).join(&self.namespace);
            assert_eq!(paths_in(&folder), [] as [PathBuf; 0], "a bundle is left");
        }
        assert_eq!(paths_in(&self.runc_root()), [] as [PathBuf; 0], "runc has something left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path().to_str().unwrap()), "a mount is left");
        assert_eq!(self.shims(), [], "a shim is left");
    }

    fn shims(&self) -> Vec<Pid> {
        let mut shims = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let cmdline = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if cmdline.split('\0').any(|arg| arg == self.namespace.as_str()) {
                let pid = entry.file_name().to_string_lossy().parse();
                shims.extend(pid.ok().map(Pid::from_raw));
            }
        }
        shims
    }
}

impl World {
    fn runc_root(&self) -> PathBuf {
        Path::new(RUNC_ROOT).join(&self.namespace)
    }

    /// Ends all containers of a test that has failed, without any manners.
    fn end_by_force(&self) {
        let kill = |pid| {
            let _ = kill(pid, Signal::SIGKILL);
        };
        for shim in self.shims() {
            let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
            let children = children.unwrap_or_default();
            // First, so that no init is taken over by another parent.
            kill(shim);
            let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            children.map(Pid::from_raw).for_each(kill);
        }
        for bundle in paths_in(&self.path().join("state").join(&self.namespace)) {
            let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
            if let Some(socket) = address.trim().strip_prefix("unix://") {
                let _ = fs::remove_file(socket);
            }
            let _ = umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH);
        }
        let prefix = format!("t-{}-", self.namespace);
        let ours = |cgroup: &PathBuf| {
            cgroup.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        };
        for hierarchy in paths_in("/sys/fs/cgroup".as_ref()) {
            for cgroup in paths_in(&hierarchy).iter().filter(|cgroup| ours(cgroup)) {
                // Busy until the last process is reaped, which takes a moment.
                for _ in 0..100 {
                    if fs::remove_dir(cgroup).is_ok() {
                        break;
                    }
                    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                    let pids = pids.lines().filter_map(|pid| pid.parse().ok());
                    pids.map(Pid::from_raw).for_each(kill);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
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

/// A test that failed ends the daemon before its shims, or the daemon would
/// clean up behind them, and with that make some folders again.
impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shutdown = self.manager.shutdown();
            tokio::task::block_in_place(|| Handle::current().block_on(shutdown));
        }
    }
}

impl Daemon {
    /// Ends it; its shims and containers go on.
    pub(crate) async fn stop(mut self) {
        self.events.close();
        self.tasks.shutdown().await;
        self.manager.shutdown().await;
        self.content.shutdown().await;
        self.endpoint.shutdown().await.unwrap();
        self.db.shutdown().await;
        self.announcer.shutdown().await;
    }

    pub(crate) fn subscribe(&self, after: Option<Timestamp>) -> Subscription {
        self.events.subscribe(Subscribe { after, ..Default::default() }).unwrap()
    }
}

/// Events up to and with the first under `topic`.
pub(crate) async fn until(subscription: &mut Subscription, topic: &str) -> Vec<Arc<Envelope>> {
    let mut events = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
        let event =
            next.unwrap_or_else(|_| panic!("no {topic} after {events:?}")).unwrap().unwrap();
        events.push(event.clone());
        if event.topic == topic {
            return events;
        }
    }
}

pub(crate) fn topics(events: &[Arc<Envelope>]) -> Vec<&str> {
    events.iter().map(|event| event.topic.as_str()).collect()
}

/// Copies a program, by a process of its own: had this one a descriptor to
/// write to the copy, a child that another test forks just then would have it
/// too, and what is open for writing cannot be executed.
pub(crate) fn install(from: &Path, to: &Path) {
    let status = Command::new("install").arg("-m755").args([from, to]).status().unwrap();
    assert!(status.success(), "install {}: {status}", to.display());
}

fn paths_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

pub(crate) fn process(script: &str) -> serde_json::Value {
    serde_json::json!({
        "user": { "uid": 0, "gid": 0 },
        "args": ["sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
    })
}

pub(crate) fn id(text: &str) -> Id {
    Id::new("id", text).unwrap()
}
