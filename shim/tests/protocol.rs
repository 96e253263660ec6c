//! The shim's binary as a daemon sees it: start protocol, shutdown, events
//! that wait, cleanup. The OCI runtime is a script whose containers sleep.
//! Needs root, for the default folder of sockets.

#![allow(clippy::unwrap_used)] // A test may panic, and so may its helpers.

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use protobuf::{EnumOrUnknown, Message, MessageField, well_known_types::empty::Empty};
use shim_protocol::{
    any,
    proto::{
        bootstrap::{BootstrapParams, Extension},
        events_ttrpc::ForwardRequest,
        events_ttrpc_ttrpc::{Events, create_events},
        runc_options,
        task_types::Status,
        task_v2::{
            ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, KillRequest,
            ShutdownRequest, StartRequest, StateRequest, WaitRequest,
        },
        task_v2_ttrpc::TaskClient,
    },
};
use tokio::sync::Notify;
use ttrpc::{
    Code,
    asynchronous::{Client, Server, TtrpcContext},
    context::{Context, with_duration},
};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim");
/// For what must happen: long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(60);

const RUNTIME: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        --root|--log|--log-format) shift 2 ;;
        *) break ;;
    esac
done
verb=$1
shift
case $verb in
    create)
        while [ $# -gt 1 ]; do
            [ "$1" = --pid-file ] && file=$2
            shift
        done
        setsid sleep 1000 &
        printf %s $! > "$file"
        ;;
    start) ;;
    kill) kill -"$2" "$(cat init.pid)" ;;
    delete) [ "$1" != --force ] || kill -9 "$(cat init.pid)" || true ;;
    *) exit 1 ;;
esac
"#;

/// Folders of one test, and the shims it leaves behind.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let runtime = bench.runtime();
        fs::write(&runtime, RUNTIME).unwrap();
        fs::set_permissions(&runtime, Permissions::from_mode(0o755)).unwrap();
        bench
    }

    fn runtime(&self) -> PathBuf {
        self.dir.path().join("runtime")
    }

    fn events(&self) -> PathBuf {
        self.dir.path().join("events.sock")
    }

    fn bundle(&self, id: &str, group: Option<&str>) -> PathBuf {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        let mut config = serde_json::json!({ "linux": { "namespaces": [{ "type": "pid" }] } });
        if let Some(group) = group {
            config["annotations"]["io.containerd.runc.v2.group"] = group.into();
        }
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    fn command(&self, id: &str, action: &str) -> Command {
        let mut command = Command::new(SHIM);
        let bundle = self.dir.path().join(id);
        command
            .args(["-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/bin/true"])
            .args(["-id", id, "-bundle"])
            .arg(&bundle)
            .arg(action)
            .current_dir(&bundle)
            .env("TTRPC_ADDRESS", self.events())
            .env_remove("MAX_SHIM_VERSION");
        command
    }

    fn options(&self) -> protobuf::well_known_types::any::Any {
        any::pack(&runc_options::Options {
            binary_name: self.runtime().to_str().unwrap().into(),
            root: self.dir.path().join("root").to_str().unwrap().into(),
            ..Default::default()
        })
        .unwrap()
    }

    /// Runs `start` with what a daemon of generation 2.3 sends.
    fn start(&self, id: &str) -> Output {
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

    async fn shim(&self, id: &str) -> Shim {
        Shim::connect(&good_address(&self.start(id))).await
    }
}

fn good_address(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["version"], &answer["protocol"]), (&3.into(), &"ttrpc".into()));
    answer["address"].as_str().unwrap().to_owned()
}

/// A running shim; killed at the end of the test, should it still run.
struct Shim {
    tasks: TaskClient,
    socket: PathBuf,
    pid: i32,
}

impl Shim {
    async fn connect(address: &str) -> Self {
        let tasks = TaskClient::new(Client::connect(address).await.unwrap());
        let pid = tasks.connect(context(), &ConnectRequest::new()).await.unwrap().shim_pid;
        let socket = address.strip_prefix("unix://").unwrap().into();
        Self { tasks, socket, pid: pid.try_into().unwrap() }
    }

    async fn create(&self, bench: &Bench, id: &str) {
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

    async fn end(&self, id: &str, signal: u32) -> u32 {
        let kill = KillRequest { id: id.into(), signal, ..Default::default() };
        self.tasks.kill(context(), &kill).await.unwrap();
        self.wait(id).await
    }

    async fn wait(&self, id: &str) -> u32 {
        let wait = WaitRequest { id: id.into(), ..Default::default() };
        self.tasks.wait(context(), &wait).await.unwrap().exit_status
    }

    async fn delete(&self, id: &str) {
        let request = DeleteRequest { id: id.into(), ..Default::default() };
        self.tasks.delete(context(), &request).await.unwrap();
    }

    async fn shutdown(&self) {
        self.tasks.shutdown(context(), &ShutdownRequest::new()).await.unwrap();
    }

    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
    }

    fn kill(&self) {
        let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        eventually("end of the shim", || !self.is_alive());
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        }
    }
}

fn context() -> Context {
    with_duration(PATIENCE)
}

/// Another process changes what is looked at, so there is no event to wait for.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon that writes down the topics it is told.
#[derive(Default)]
struct Recorder {
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
    async fn listen(path: &Path) -> (Arc<Self>, Server) {
        let recorder = Arc::new(Self::default());
        let services = create_events(Arc::new(Endpoint(Arc::clone(&recorder))));
        let server = Server::new().bind(&format!("unix://{}", path.display())).unwrap();
        let mut server = server.register_service(services);
        server.start().await.unwrap();
        (recorder, server)
    }

    async fn wait_for(&self, count: usize) -> Vec<String> {
        loop {
            let topics = self.topics.lock().unwrap().clone();
            if topics.len() >= count {
                return topics;
            }
            tokio::time::timeout(PATIENCE, self.told.notified()).await.expect("an event");
        }
    }
}

#[tokio::test]
async fn one_shim_for_each_container_or_group() {
    let bench = Bench::new();
    bench.bundle("a", None);
    let address = good_address(&bench.start("a"));
    let shim = Shim::connect(&address).await;
    let mode = fs::metadata(&shim.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = bench.start("a");
    assert!(!again.status.success() && again.stdout.is_empty());
    assert!(String::from_utf8_lossy(&again.stderr).contains(&address));
    let member = bench.bundle("b", Some("a"));
    assert_eq!(good_address(&bench.start("b")), address);
    assert_eq!(fs::read_to_string(member.join("address")).unwrap(), address);
    // A stale socket is in nobody's way.
    shim.kill();
    assert!(shim.socket.exists());
    let shim = bench.shim("a").await;
    shim.shutdown().await;
    eventually("end of the shim", || !shim.is_alive());
    assert!(!shim.socket.exists());
}

#[tokio::test]
async fn older_daemons_get_the_answer_they_understand() {
    let bench = Bench::new();
    bench.bundle("a", None);
    for (version, start) in [(None, "unix:///"), (Some("2"), r#"{"version":2,"#)] {
        let mut command = bench.command("a", "start");
        // Nothing and options alone, both without a socket folder.
        command.stdin(Stdio::null());
        if let Some(version) = version {
            command.env("MAX_SHIM_VERSION", version);
        }
        let output = command.output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.starts_with(start), "{answer}");
        assert!(output.stderr.is_empty());
        let address = fs::read_to_string(bench.dir.path().join("a/address")).unwrap();
        assert!(answer.contains(&address));
        let shim = Shim::connect(&address).await;
        shim.shutdown().await;
        eventually("end of the shim", || !shim.is_alive());
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_and_leaves_nothing() {
    let bench = Bench::new();
    let bundle = bench.bundle("a", None);
    fs::write(bundle.join("config.json"), "{").unwrap();
    let output = bench.start("a");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"));
    let output = Command::new(SHIM).args(["-namespace", "ns", "-id", "../a", "start"]).output();
    assert!(String::from_utf8_lossy(&output.unwrap().stderr).contains("../a"));
    assert_eq!(fs::read_dir(bench.dir.path().join("s")).map_or(0, Iterator::count), 0);
}

#[tokio::test]
async fn codes_of_refusals() {
    let bench = Bench::new();
    bench.bundle("a", None);
    let shim = bench.shim("a").await;
    let code = |error| match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    };
    let state = |id: &str| StateRequest { id: id.into(), ..Default::default() };
    let error = shim.tasks.state(context(), &state("a")).await.unwrap_err();
    assert_eq!(code(error), Code::NOT_FOUND);
    shim.create(&bench, "a").await;
    let running = shim.tasks.state(context(), &state("a")).await.unwrap();
    assert_eq!(running.status, EnumOrUnknown::new(Status::RUNNING));
    let delete = DeleteRequest { id: "a".into(), ..Default::default() };
    let error = shim.tasks.delete(context(), &delete).await.unwrap_err();
    assert_eq!(code(error), Code::FAILED_PRECONDITION);
    assert_eq!(shim.end("a", 9).await, 137);
    let kill = KillRequest { id: "a".into(), signal: 9, ..Default::default() };
    let error = shim.tasks.kill(context(), &kill).await.unwrap_err();
    assert_eq!(code(error), Code::NOT_FOUND);
    // A shim with a container stays.
    shim.shutdown().await;
    assert_eq!(shim.wait("a").await, 137);
}

#[tokio::test]
async fn events_wait_for_the_daemon_even_after_the_end() {
    let bench = Bench::new();
    let bundle = bench.bundle("a", None);
    let shim = bench.shim("a").await;
    shim.create(&bench, "a").await;
    assert_eq!(shim.end("a", 15).await, 143);
    shim.delete("a").await;
    shim.shutdown().await;
    eventually("removal of the socket", || !shim.socket.exists());
    fs::remove_dir_all(bundle).unwrap();
    assert!(shim.is_alive());
    let (recorder, _server) = Recorder::listen(&bench.events()).await;
    let topics = recorder.wait_for(4).await;
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    eventually("end of the shim", || !shim.is_alive());
}

#[tokio::test]
async fn delete_cleans_up_after_a_dead_shim() {
    for (ended_before, status) in [(true, 143), (false, 137)] {
        let bench = Bench::new();
        let bundle = bench.bundle("a", None);
        let shim = bench.shim("a").await;
        shim.create(&bench, "a").await;
        let pid: u32 = fs::read_to_string(bundle.join("init.pid")).unwrap().parse().unwrap();
        if ended_before {
            shim.end("a", 15).await;
        }
        shim.kill();
        for _ in 0..2 {
            let output = bench.command("a", "delete").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
            assert_eq!((response.pid, response.exit_status), (pid, status));
            assert!(response.exited_at.is_some());
            assert!(!shim.socket.exists());
        }
    }
}
