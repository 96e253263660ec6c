//! Folders, shims and a daemon's endpoint for the tests of the protocol.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use nix::{sys::signal, unistd::Pid};
use protobuf::{Message, MessageField, well_known_types::empty::Empty};
use shim_protocol::{
    any, note,
    proto::{
        bootstrap::{BootstrapParams, Extension},
        events_ttrpc::ForwardRequest,
        events_ttrpc_ttrpc::{Events, create_events},
        runc_options,
        task_v2::{
            ConnectRequest, CreateTaskRequest, DeleteRequest, KillRequest, ShutdownRequest,
            StartRequest, WaitRequest,
        },
        task_v2_ttrpc::TaskClient,
    },
};
use tokio::sync::Notify;
use ttrpc::{
    asynchronous::{Client, Server, TtrpcContext},
    context::{Context, with_duration},
};

pub(super) const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim");
/// For what must happen: long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what another process does.
const PAUSE: Duration = Duration::from_millis(5);

/// In place: a copy written here could not be executed while a child that
/// another test is about to start holds it open.
const RUNTIME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtime.sh");

/// Folders of one test, and the shims it leaves behind.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.dir.path().join("daemon")).unwrap();
        bench
    }

    pub(super) fn events(&self) -> PathBuf {
        self.dir.path().join("daemon/events.sock")
    }

    pub(super) fn bundle(&self, id: &str, group: Option<&str>) -> PathBuf {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        let mut config = serde_json::json!({ "linux": { "namespaces": [{ "type": "pid" }] } });
        if let Some(group) = group {
            config["annotations"]["io.containerd.runc.v2.group"] = group.into();
        }
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    pub(super) fn command(&self, id: &str, action: &str) -> Command {
        let mut command = Command::new(SHIM);
        let bundle = self.dir.path().join(id);
        command
            .args(["-namespace", "ns", "-publish-binary", "/bin/true", "-address"])
            // Also the socket's name in the default folder comes of it.
            .arg(self.dir.path().join("daemon/c.sock"))
            .args(["-id", id, "-bundle"])
            .arg(&bundle)
            .arg(action)
            .current_dir(&bundle)
            .env("TTRPC_ADDRESS", self.events())
            .env_remove("MAX_SHIM_VERSION");
        command
    }

    pub(super) fn options(&self) -> protobuf::well_known_types::any::Any {
        any::pack(&runc_options::Options {
            binary_name: RUNTIME.into(),
            root: self.dir.path().join("root").to_str().unwrap().into(),
            ..Default::default()
        })
        .unwrap()
    }

    /// Runs `start` with what a daemon of generation 2.3 sends.
    pub(super) fn start(&self, id: &str) -> Output {
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: "ns".into(),
            socket_dir: Some(self.dir.path().join("s").to_str().unwrap().into()),
            extensions: vec![Extension {
                value: MessageField::some(self.options()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut command = self.command(id, "start");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&params.write_to_bytes().unwrap()).unwrap();
        child.wait_with_output().unwrap()
    }

    pub(super) async fn shim(&self, id: &str) -> Shim {
        self.connect(&good_address(&self.start(id))).await
    }

    pub(super) async fn connect(&self, address: &str) -> Shim {
        let tasks = TaskClient::new(Client::connect(address).await.unwrap());
        let pid = tasks.connect(context(), &ConnectRequest::new()).await.unwrap().shim_pid;
        let socket = address.strip_prefix("unix://").unwrap().into();
        Shim { tasks, socket, pid: pid.try_into().unwrap(), mark: self.mark() }
    }

    /// What all processes of this test, and no others, have in their environment.
    fn mark(&self) -> Vec<u8> {
        format!("TTRPC_ADDRESS={}", self.events().display()).into_bytes()
    }
}

impl Drop for Bench {
    /// However the test has ended, its shims, containers and sockets go.
    fn drop(&mut self) {
        let mark = self.mark();
        loop {
            let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
            let pids = names.filter_map(|name| name.to_str()?.parse().ok());
            let found: Vec<i32> = pids.filter(|pid| is_marked(*pid, &mark)).collect();
            if found.is_empty() {
                break;
            }
            found.into_iter().for_each(kill);
            std::thread::sleep(PAUSE);
        }
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let address = note::read(&entry.unwrap().path().join("address")).ok().flatten();
            let address = String::from_utf8(address.unwrap_or_default()).unwrap_or_default();
            if let Some(socket) = address.strip_prefix("unix://") {
                // Most tests have seen to it.
                let _ = fs::remove_file(socket);
            }
        }
    }
}

/// True while a process lives that has `mark` in its environment. A zombie has
/// none any more, and who got its pid has another.
fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

fn kill(pid: i32) {
    // It may have ended just now.
    let _ = signal::kill(Pid::from_raw(pid), signal::SIGKILL);
}

pub(super) fn good_address(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["version"], &answer["protocol"]), (&3.into(), &"ttrpc".into()));
    answer["address"].as_str().unwrap().to_owned()
}

/// A running shim.
pub(super) struct Shim {
    pub(super) tasks: TaskClient,
    pub(super) socket: PathBuf,
    pid: i32,
    mark: Vec<u8>,
}

impl Shim {
    pub(super) async fn create(&self, bench: &Bench, id: &str) {
        let request = CreateTaskRequest {
            id: id.into(),
            bundle: bench.dir.path().join(id).to_str().unwrap().into(),
            options: MessageField::some(bench.options()),
            ..Default::default()
        };
        self.tasks.create(context(), &request).await.unwrap();
        let request = StartRequest { id: id.into(), ..Default::default() };
        self.tasks.start(context(), &request).await.unwrap();
    }

    pub(super) async fn end(&self, id: &str, signal: u32) -> u32 {
        let kill = KillRequest { id: id.into(), signal, ..Default::default() };
        self.tasks.kill(context(), &kill).await.unwrap();
        self.wait(id).await
    }

    pub(super) async fn wait(&self, id: &str) -> u32 {
        let wait = WaitRequest { id: id.into(), ..Default::default() };
        self.tasks.wait(context(), &wait).await.unwrap().exit_status
    }

    pub(super) async fn delete(&self, id: &str) {
        let request = DeleteRequest { id: id.into(), ..Default::default() };
        self.tasks.delete(context(), &request).await.unwrap();
    }

    /// From its creation to the end of the shim, which may wait for its daemon.
    pub(super) async fn whole_life(&self, bench: &Bench, id: &str) {
        self.create(bench, id).await;
        assert_eq!(self.end(id, 15).await, 143);
        self.delete(id).await;
        self.shutdown().await;
        eventually("removal of the socket", || !self.socket.exists()).await;
    }

    pub(super) async fn shutdown(&self) {
        self.tasks.shutdown(context(), &ShutdownRequest::new()).await.unwrap();
    }

    pub(super) fn is_alive(&self) -> bool {
        is_marked(self.pid, &self.mark)
    }

    pub(super) async fn kill(&self) {
        kill(self.pid);
        // Its socket may be closed a little later, with its last thread.
        let is_served = || UnixStream::connect(&self.socket).is_ok();
        eventually("end of the shim", || !self.is_alive() && !is_served()).await;
    }
}

pub(super) fn context() -> Context {
    with_duration(PATIENCE)
}

/// Another process changes what is looked at, so there is no event to wait for.
/// It may need the test's own daemon for it, which goes on meanwhile.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A daemon that writes down the topics it is told.
#[derive(Default)]
pub(super) struct Recorder {
    topics: Mutex<Vec<String>>,
    told: Notify,
}

struct Endpoint(Arc<Recorder>);

#[async_trait]
impl Events for Endpoint {
    async fn forward(&self, context: &TtrpcContext, event: ForwardRequest) -> ttrpc::Result<Empty> {
        assert_eq!(context.metadata["containerd-namespace-ttrpc"], ["ns"]);
        self.0.topics.lock().unwrap().push(event.envelope.topic.clone());
        self.0.told.notify_one();
        Ok(Empty::new())
    }
}

impl Recorder {
    pub(super) async fn listen(path: &Path) -> (Arc<Self>, Server) {
        let recorder = Arc::new(Self::default());
        let services = create_events(Arc::new(Endpoint(Arc::clone(&recorder))));
        let server = Server::new().bind(&format!("unix://{}", path.display())).unwrap();
        let mut server = server.register_service(services);
        server.start().await.unwrap();
        (recorder, server)
    }

    pub(super) async fn wait_for(&self, count: usize) -> Vec<String> {
        loop {
            let topics = self.topics.lock().unwrap().clone();
            if topics.len() >= count {
                return topics;
            }
            tokio::time::timeout(PATIENCE, self.told.notified()).await.expect("an event");
        }
    }
}
