//! A shim that does what no real one can be made to do on demand. It is served
//! by the test itself; a sleeping process stands for the shim's.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use protobuf::well_known_types::empty::Empty;
use runtime_v2::CreateTask;
use shim_protocol::proto::{
    outbox::{FlushRequest, FlushResponse},
    outbox_ttrpc::{Outbox, create_outbox},
    task_types::Status as WireStatus,
    task_v2::{
        ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
        DeleteResponse, ExecProcessRequest, KillRequest, ShutdownRequest, StartRequest,
        StartResponse, StateRequest, StateResponse, WaitRequest, WaitResponse,
    },
    task_v2_ttrpc::{Task, create_task},
};
use tokio::sync::Notify;
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::{PATIENCE, World};

/// What the shim does out of the ordinary, and what was asked of it.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) hang_on: Mutex<Option<&'static str>>,
    /// It does not know the container.
    pub(crate) ignorant: AtomicBool,
    /// It answers no question about states.
    pub(crate) refusing: AtomicBool,
    /// It makes init at the start.
    pub(crate) restoring: AtomicBool,
    /// It does so when it is asked to.
    pub(crate) willing: AtomicBool,
    status: Mutex<WireStatus>,
    asked: Mutex<Vec<&'static str>>,
    shim_pid: u32,
    pub(crate) never: Notify,
}

impl Fake {
    async fn ask(&self, method: &'static str) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(method);
        let answer = self.never.notified();
        if *self.hang_on.lock().unwrap() == Some(method) {
            answer.await;
        }
    }

    pub(crate) fn hangs_on(&self, method: Option<&'static str>) {
        *self.hang_on.lock().unwrap() = method;
        self.never.notify_waiters();
    }

    pub(crate) fn asked(&self) -> Vec<&'static str> {
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
pub(crate) struct Shim {
    pub(crate) fake: Arc<Fake>,
    server: Server,
    pub(crate) process: Child,
    socket: PathBuf,
}

impl Shim {
    pub(crate) async fn serve(world: &World, hang_on: Option<&'static str>) -> Self {
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let fake =
            Fake { hang_on: Mutex::new(hang_on), shim_pid: process.id(), ..Default::default() };
        let socket = world.folder.path().join("shim");
        let fake = Arc::new(fake);
        let server = listen(&fake, &socket).await;
        Self { fake, server, process, socket }
    }

    pub(crate) async fn listen_again(&mut self) {
        self.server = listen(&self.fake, &self.socket).await;
    }

    /// Closes its connections and listens no more.
    pub(crate) async fn hang_up(&mut self) {
        self.server.shutdown().await.unwrap();
        let _ = std::fs::remove_file(&self.socket);
    }

    pub(crate) fn is_status(&self, status: WireStatus) {
        *self.fake.status.lock().unwrap() = status;
    }

    /// Is its process there?
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// A request for a task that it holds. Its binary can `start` and `delete`.
    pub(crate) fn request(&self, world: &World) -> CreateTask {
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

pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it never is so");
}
