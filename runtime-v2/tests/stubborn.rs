//! A shim that does what no real one can be made to do on demand. It is served
//! by the test itself; a sleeping process stands for the shim's.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use common::{PATIENCE, World, id, with_shim};
use protobuf::well_known_types::empty::Empty;
use runtime_v2::{CreateTask, Recovered, Status, Timeouts};
use shim_protocol::{
    ErrorKind, Id,
    exits::{self, ExitRecord},
    proto::{
        outbox::{FlushRequest, FlushResponse},
        outbox_ttrpc::{Outbox, create_outbox},
        task_types::Status as WireStatus,
        task_v2::{
            ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
            DeleteResponse, ExecProcessRequest, KillRequest, ShutdownRequest, StartRequest,
            StartResponse, StateRequest, StateResponse, WaitRequest, WaitResponse,
        },
        task_v2_ttrpc::{Task, create_task},
    },
};
use tokio::sync::Notify;
use ttrpc::asynchronous::{Server, TtrpcContext};

/// What the shim does out of the ordinary, and what was asked of it.
#[derive(Default)]
struct Fake {
    hang_on: Mutex<Option<&'static str>>,
    /// It does not know the container.
    ignorant: AtomicBool,
    /// It answers no question about states.
    refusing: AtomicBool,
    /// It makes init at the start.
    restoring: AtomicBool,
    /// It does so when it is asked to.
    willing: AtomicBool,
    status: Mutex<WireStatus>,
    asked: Mutex<Vec<&'static str>>,
    shim_pid: u32,
    never: Notify,
}

impl Fake {
    async fn ask(&self, method: &'static str) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(method);
        let answer = self.never.notified();
        if *self.hang_on.lock().unwrap() == Some(method) {
            answer.await;
        }
    }

    fn hangs_on(&self, method: Option<&'static str>) {
        *self.hang_on.lock().unwrap() = method;
        self.never.notify_waiters();
    }

    fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().unwrap().clone()
    }
}

fn refuse<T>() -> ttrpc::Result<T> {
    Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::UNKNOWN, "I will not")))
}

#[async_trait]
impl Task for Fake {
    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        self.ask("connect").await;
        Ok(ConnectResponse { shim_pid: self.shim_pid, task_pid: 7, ..Default::default() })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        _: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        self.ask("create").await;
        let pid = if self.restoring.load(Ordering::SeqCst) { 0 } else { 7 };
        Ok(CreateTaskResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, _: StateRequest) -> ttrpc::Result<StateResponse> {
        self.ask("state").await;
        if self.refusing.load(Ordering::SeqCst) {
            return refuse();
        }
        if self.ignorant.load(Ordering::SeqCst) {
            let status = ttrpc::get_status(ttrpc::Code::NOT_FOUND, "what container?");
            return Err(ttrpc::Error::RpcStatus(status));
        }
        let status = *self.status.lock().unwrap();
        Ok(StateResponse { pid: 7, status: status.into(), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, _: StartRequest) -> ttrpc::Result<StartResponse> {
        self.ask("start").await;
        match self.willing.load(Ordering::SeqCst) {
            true => Ok(StartResponse { pid: 9, ..Default::default() }),
            false => refuse(),
        }
    }

    async fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.ask("exec").await;
        refuse()
    }

    async fn wait(&self, _: &TtrpcContext, _: WaitRequest) -> ttrpc::Result<WaitResponse> {
        self.ask("wait").await;
        Ok(WaitResponse { exit_status: 4, ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, _: KillRequest) -> ttrpc::Result<Empty> {
        self.ask("kill").await;
        Ok(Empty::default())
    }

    async fn delete(&self, _: &TtrpcContext, _: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        self.ask("delete").await;
        if *self.status.lock().unwrap() == WireStatus::RUNNING {
            return refuse();
        }
        Ok(DeleteResponse { pid: 7, exit_status: 5, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.ask("shutdown").await;
        Ok(Empty::default())
    }
}

#[async_trait]
impl Outbox for Fake {
    async fn flush(&self, _: &TtrpcContext, _: FlushRequest) -> ttrpc::Result<FlushResponse> {
        self.ask("flush").await;
        Ok(FlushResponse::default())
    }
}

/// The served shim, and the process that stands for it.
struct Shim {
    fake: Arc<Fake>,
    server: Server,
    process: Child,
    socket: PathBuf,
}

impl Shim {
    async fn serve(world: &World, hang_on: Option<&'static str>) -> Self {
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let fake =
            Fake { hang_on: Mutex::new(hang_on), shim_pid: process.id(), ..Default::default() };
        let socket = world.folder.path().join("shim");
        let fake = Arc::new(fake);
        let server = listen(&fake, &socket).await;
        Self { fake, server, process, socket }
    }

    async fn listen_again(&mut self) {
        self.server = listen(&self.fake, &self.socket).await;
    }

    /// Closes its connections and listens no more.
    async fn hang_up(&mut self) {
        self.server.shutdown().await.unwrap();
        let _ = std::fs::remove_file(&self.socket);
    }

    fn is_status(&self, status: WireStatus) {
        *self.fake.status.lock().unwrap() = status;
    }

    /// Is its process there?
    fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// A request for a task that it holds. Its binary can `start` and `delete`.
    fn request(&self, world: &World) -> CreateTask {
        let address = format!("unix://{}", self.socket.display());
        let json = format!(r#"{{"version":3,"address":"{address}","protocol":"ttrpc"}}"#);
        let script = format!(r#"case "$*" in *start) echo '{json}';; esac"#);
        let mut request = world.request("a", "");
        request.runtime = world.script_shim(&script);
        request
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn listen(fake: &Arc<Fake>, socket: &Path) -> Server {
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .unwrap()
        .register_service(create_task(fake.clone()))
        .register_service(create_outbox(fake.clone()));
    server.start().await.unwrap();
    server
}

async fn with_world<F: Future<Output = World>>(body: impl FnOnce(World) -> F) {
    with_shim(Path::new("/bin/sh"), body).await;
}

fn short() -> Timeouts {
    let limit = Duration::from_millis(300);
    Timeouts { load: limit, request: limit, cleanup: limit, shutdown: limit, ..Default::default() }
}

/// It says "version 3", and speaks version 2.
#[tokio::test]
async fn an_older_version_is_spoken_after_all() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        assert_eq!(task.pid(), 7);
        task.kill(None, 9, false).await.unwrap();
        assert_eq!(task.wait(None).await.unwrap().status, 4);
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        assert_eq!(shim.fake.asked(), ["connect", "create", "kill", "wait", "delete", "shutdown"]);
        world
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_never_answers_does_not_hold_a_create() {
    for method in ["connect", "create"] {
        with_world(async |mut world: World| {
            world.set_timeouts(short()).await;
            let mut shim = Shim::serve(&world, Some(method)).await;
            let error = world.manager.create(shim.request(&world)).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
            // Whoever does not shut down is killed, if it has said who it is.
            assert_eq!(shim.is_alive(), method == "connect");
            world
        })
        .await;
    }
}

/// How long it takes to bring memory back depends on how much there is.
#[tokio::test]
async fn a_start_from_a_checkpoint_has_no_limit() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let mut shim = Shim::serve(&world, Some("start")).await;
        shim.fake.restoring.store(true, Ordering::SeqCst);
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let starting = tokio::spawn({
            let task = task.clone();
            async move { task.start(None).await }
        });
        until(|| shim.fake.asked().contains(&"start")).await;
        // A limit that begins later has passed.
        *shim.fake.hang_on.lock().unwrap() = Some("kill");
        let error = task.kill(None, 9, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(!starting.is_finished());
        shim.fake.hangs_on(None);
        assert_eq!(starting.await.unwrap().unwrap_err().kind(), ErrorKind::Unknown);
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

/// Nobody else would note the pid.
#[tokio::test]
async fn a_start_from_a_checkpoint_survives_its_caller() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, Some("start")).await;
        shim.fake.restoring.store(true, Ordering::SeqCst);
        shim.fake.willing.store(true, Ordering::SeqCst);
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let restore = world.folder.path().join("root").join(&world.namespace).join("a/restore");
        std::fs::create_dir(&restore).unwrap();
        let starting = tokio::spawn({
            let task = task.clone();
            async move { task.start(None).await }
        });
        until(|| shim.fake.asked().contains(&"start")).await;
        starting.abort();
        assert!(starting.await.unwrap_err().is_cancelled());
        shim.fake.hangs_on(None);
        until(|| task.pid() == 9 && !restore.exists()).await;
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_does_not_end_after_its_last_task_is_killed() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        assert_eq!(task.delete().await.unwrap().exit.status, 5);
        assert!(!shim.is_alive());
        // It said nothing of the end, so the daemon does.
        let topics: Vec<_> = world.log.all().into_iter().map(|event| event.topic).collect();
        assert_eq!(topics, ["/tasks/exit", "/tasks/delete"]);
        world
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_while_the_shim_lives() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, Some("wait")).await;
        shim.is_status(WireStatus::CREATED);
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let waiting = task.clone();
        let wait = tokio::spawn(async move { waiting.wait(None).await });
        until(|| shim.fake.asked().contains(&"wait")).await;
        shim.hang_up().await;
        shim.listen_again().await;
        // The wait is asked again.
        until(|| shim.fake.asked().iter().filter(|m| **m == "wait").count() == 2).await;
        assert_eq!(task.state(None).await.unwrap().status, Status::Created);
        shim.fake.never.notify_waiters();
        assert_eq!(wait.await.unwrap().unwrap().status, 4);
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_cannot_be_reached_any_more_is_killed() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        shim.hang_up().await;
        world.gone("a").await;
        assert!(!shim.is_alive());
        assert!(task.state(None).await.is_err_and(|e| e.is_not_found()));
        assert_eq!(world.log.exit_of("a").await.status, 0);
        world
    })
    .await;
}

#[tokio::test]
async fn what_is_on_record_is_announced_for_a_dead_shim() {
    for while_away in [false, true] {
        with_world(async |mut world: World| {
            let mut shim = Shim::serve(&world, None).await;
            let task = world.manager.create(shim.request(&world)).await.unwrap();
            let record = |exec_id: Option<Id>, pid, status| {
                let record = ExitRecord { exec_id, pid, status, at: SystemTime::now() };
                exits::write(task.bundle(), &record).unwrap();
            };
            record(None, 7, 42);
            record(Some(id("late")), 9, 2);
            let mut end = async |_: &World| {
                shim.process.kill().unwrap();
                shim.process.wait().unwrap();
                shim.hang_up().await;
            };
            if while_away {
                let recovered = world.restart(end).await;
                assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
            } else {
                end(&world).await;
                assert_eq!(task.wait(None).await.unwrap().status, 42);
                world.gone("a").await;
            }
            let said: Vec<_> = world
                .log
                .all()
                .into_iter()
                .map(|e| (e.topic, e.process, e.pid, e.status))
                .collect();
            assert_eq!(
                said,
                [
                    ("/tasks/exit".into(), "late".into(), 9, 2),
                    ("/tasks/exit".into(), "a".into(), 7, 42),
                    ("/tasks/delete".into(), String::new(), 7, 42),
                ]
            );
            world
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusal_without_a_class_gets_one_from_the_state() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        shim.is_status(WireStatus::RUNNING);
        for error in
            [task.start(None).await.unwrap_err(), task.delete().await.map(drop).unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
            assert!(error.report().to_string().contains("I will not"), "{error:?}");
        }
        // Here the state is right, so it is something else.
        let error = task.exec(common::exec("e", "true")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        shim.is_status(WireStatus::STOPPED);
        let error = task.exec(common::exec("e", "true")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

/// At boot the shim may say what it kept before it is asked for states.
#[tokio::test]
async fn the_outbox_is_emptied_before_states_are_asked() {
    with_world(async |mut world: World| {
        let mut shim = Shim::serve(&world, None).await;
        shim.is_status(WireStatus::CREATED);
        world.manager.create(shim.request(&world)).await.unwrap();
        let recovered = world.restart(async |_| {}).await;
        assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
        assert_eq!(shim.fake.asked(), ["connect", "create", "connect", "flush", "state"]);
        shim.process.kill().unwrap();
        world.manager.get(&world.namespace, &id("a")).unwrap().delete().await.unwrap();
        world
    })
    .await;
}

/// A shim that hangs, or gives no sense, has a task, and is asked again.
#[tokio::test]
async fn what_a_shim_has_to_tell_is_asked_until_it_answers() {
    for refusing in [false, true] {
        with_world(async |mut world: World| {
            world.set_timeouts(short()).await;
            let mut shim = Shim::serve(&world, None).await;
            shim.is_status(WireStatus::STOPPED);
            world.manager.create(shim.request(&world)).await.unwrap();
            shim.fake.refusing.store(refusing, Ordering::SeqCst);
            shim.fake.hangs_on(Some("connect").filter(|_| !refusing));
            let recovered = world.restart(async |_| {}).await;
            assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
            assert!(world.log.all().is_empty());
            shim.fake.refusing.store(false, Ordering::SeqCst);
            shim.fake.hangs_on(None);
            world.log.exit_of("a").await;
            shim.process.kill().unwrap();
            world.manager.get(&world.namespace, &id("a")).unwrap().delete().await.unwrap();
            world
        })
        .await;
    }
}

/// A shim that hangs, and then does not know the container: there never was
/// one, or it was deleted, and then its end is on record. That its program
/// cannot clean up is no reason to keep that back.
#[tokio::test]
async fn a_container_that_a_shim_does_not_know_is_ended() {
    for recorded in [false, true] {
        with_world(async |mut world: World| {
            world.set_timeouts(short()).await;
            let mut shim = Shim::serve(&world, None).await;
            let mut request = shim.request(&world);
            let script = std::fs::read_to_string(&request.runtime).unwrap();
            request.runtime =
                world.script_shim(&format!("{script}\ncase \"$*\" in *delete) exit 1;; esac"));
            let task = world.manager.create(request).await.unwrap();
            if recorded {
                let at = SystemTime::now();
                let record = ExitRecord { exec_id: None, pid: 7, status: 42, at };
                exits::write(task.bundle(), &record).unwrap();
            }
            shim.fake.hangs_on(Some("connect"));
            let recovered = world.restart(async |_| {}).await;
            assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
            shim.fake.ignorant.store(true, Ordering::SeqCst);
            shim.process.kill().unwrap();
            shim.fake.hangs_on(None);
            world.gone("a").await;
            let said: Vec<_> = world.log.all().into_iter().map(|e| (e.topic, e.status)).collect();
            let end = [("/tasks/exit".to_owned(), 42), ("/tasks/delete".to_owned(), 42)];
            assert_eq!(said, if recorded { end.to_vec() } else { Vec::new() });
            world
        })
        .await;
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it never is so");
}
