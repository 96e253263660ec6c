//! A shim that announces a task and then knows nothing of it. It is served by
//! the test itself; a sleeping process stands for the shim's. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use common::{Daemon, World, id, install, topics, until};
use containerd_api::events::{TaskCreate, TaskExit};
use containerd_core::{
    Any,
    events::{Envelope, Exchange, Timestamp},
};
use prost::{Message, Name};
use protobuf::well_known_types::empty::Empty;
use shim_protocol::{
    ErrorKind, Id,
    proto::{
        task_v2::{
            ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
            DeleteResponse, ShutdownRequest,
        },
        task_v2_ttrpc::{Task, create_task},
    },
};
use tokio::sync::Semaphore;
use ttrpc::{
    Code,
    asynchronous::{Server, TtrpcContext},
};

/// The pid that the shim says init has.
const INIT: u32 = 4_000_001;

/// It forgets the task once it has announced it: with the answer to its
/// creation, or after that.
struct Forgetful {
    at_once: bool,
    /// Of init; 0 if that is yet to be restored.
    pid: u32,
    events: Arc<Exchange>,
    namespace: Id,
    process: Mutex<Child>,
    /// It makes the task when it may.
    may_create: Arc<Semaphore>,
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        end(&self.process);
    }
}

fn end(process: &Mutex<Child>) {
    let mut process = process.lock().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
}

fn created(namespace: &Id, container_id: String, pid: u32) -> Envelope {
    let event = TaskCreate { container_id, pid, ..Default::default() };
    Envelope {
        timestamp: Timestamp::now(),
        namespace: namespace.clone(),
        topic: "/tasks/create".into(),
        event: Any { type_url: TaskCreate::full_name(), value: event.encode_to_vec() },
    }
}

fn refuse<T>(code: Code) -> ttrpc::Result<T> {
    Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "what task?")))
}

#[async_trait]
impl Task for Forgetful {
    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let shim_pid = self.process.lock().unwrap().id();
        Ok(ConnectResponse { shim_pid, ..Default::default() })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let _ = self.may_create.acquire().await;
        self.events.forward(created(&self.namespace, request.id, self.pid))?;
        if self.at_once {
            return refuse(Code::UNKNOWN);
        }
        Ok(CreateTaskResponse { pid: self.pid, ..Default::default() })
    }

    async fn delete(&self, _: &TtrpcContext, _: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        refuse(Code::NOT_FOUND)
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        end(&self.process);
        Ok(Empty::default())
    }
}

/// Lets the container `a` have such a shim.
async fn serve(world: &World, daemon: &Daemon, at_once: bool) -> Server {
    serve_as(world, daemon, at_once, INIT, Arc::new(Semaphore::new(1))).await
}

async fn serve_as(
    world: &World,
    daemon: &Daemon,
    at_once: bool,
    pid: u32,
    may_create: Arc<Semaphore>,
) -> Server {
    let shim = Forgetful {
        at_once,
        pid,
        events: daemon.events.clone(),
        namespace: world.namespace.clone(),
        process: Mutex::new(Command::new("sleep").arg("1000").spawn().unwrap()),
        may_create,
    };
    let address = format!("unix://{}", world.path().join("shim.sock").display());
    let mut server =
        Server::new().bind(&address).unwrap().register_service(create_task(Arc::new(shim)));
    server.start().await.unwrap();
    let (draft, program) = (world.path().join("draft"), world.path().join("shim"));
    let script = format!("#!/bin/sh\ncase \"$*\" in *start) echo {address};; esac\n");
    std::fs::write(&draft, script).unwrap();
    install(&draft, &program);
    let mut record = world.container("a", Path::new("rootfs"), "true");
    record.runtime.name = program.to_str().unwrap().into();
    if daemon.containers.get(&world.namespace, &id("a")).await.is_err() {
        daemon.containers.create(&world.namespace, record).await.unwrap();
    }
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_announced_by_a_create_that_failed_is_announced_to_have_ended() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let mut shim = serve(&world, &daemon, true).await;
    let mut events = daemon.subscribe(None);
    let refused = daemon.tasks.create(world.create("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unknown);
    let heard = until(&mut events, "/tasks/delete").await;
    assert_eq!(topics(&heard), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    let exit = TaskExit::decode(heard[2].event.value.as_slice()).unwrap();
    assert_eq!((exit.pid, exit.exit_status), (INIT, 137));
    shim.shutdown().await.unwrap();
    daemon.stop().await;
    world.ends_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_its_shim_forgot_is_announced_to_have_ended() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let mut shim = serve(&world, &daemon, false).await;
    let mut events = daemon.subscribe(None);
    assert_eq!(daemon.tasks.create(world.create("a")).await.unwrap(), INIT);
    let forgotten = daemon.tasks.delete(&world.target("a")).await.unwrap_err();
    assert_eq!(forgotten.kind(), ErrorKind::NotFound);
    let heard = until(&mut events, "/tasks/delete").await;
    assert_eq!(topics(&heard), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    assert!(daemon.manager.get(&world.namespace, &id("a")).is_err());
    shim.shutdown().await.unwrap();
    daemon.stop().await;
    world.ends_empty();
}

/// Whoever asked for it has given up, and tidies up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_waits_for_a_create_that_goes_on_alone() {
    if common::skip() {
        return;
    }
    for at_once in [true, false] {
        let world = World::new();
        let daemon = world.boot().await;
        let may_create = Arc::new(Semaphore::new(0));
        let mut shim = serve_as(&world, &daemon, at_once, INIT, may_create.clone()).await;
        let mut creating = Box::pin(daemon.tasks.create(world.create("a")));
        while !daemon.manager.is_known(&world.namespace, &id("a")) {
            assert!(futures::poll!(&mut creating).is_pending());
            tokio::task::yield_now().await;
        }
        drop(creating);
        let target = world.target("a");
        let mut deleting = Box::pin(daemon.tasks.delete(&target));
        assert!(futures::poll!(&mut deleting).is_pending());
        may_create.add_permits(1);
        assert_eq!(deleting.await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!daemon.manager.is_known(&world.namespace, &id("a")));
        shim.shutdown().await.unwrap();
        daemon.stop().await;
        world.ends_empty();
    }
}

/// Or the create of the next one would be taken for a late one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_restored_when_its_shim_died_makes_room_for_another() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let may_create = Arc::new(Semaphore::new(1));
    let mut shim = serve_as(&world, &daemon, false, 0, may_create).await;
    let mut events = daemon.subscribe(None);
    assert_eq!(daemon.tasks.create(world.create("a")).await.unwrap(), 0);
    shim.shutdown().await.unwrap();
    // With it ends the process that stands for the shim's.
    drop(shim);
    std::fs::remove_file(world.path().join("shim.sock")).unwrap();
    while daemon.manager.is_known(&world.namespace, &id("a")) {
        tokio::task::yield_now().await;
    }

    let mut shim = serve(&world, &daemon, false).await;
    assert_eq!(daemon.tasks.create(world.create("a")).await.unwrap(), INIT);
    daemon.tasks.delete(&world.target("a")).await.unwrap_err();
    let mut heard = until(&mut events, "/tasks/delete").await;
    heard.extend(until(&mut events, "/tasks/delete").await);
    let life = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    assert_eq!(topics(&heard), [life, life].concat());
    let created = TaskCreate::decode(heard[4].event.value.as_slice()).unwrap();
    assert_eq!(created.pid, INIT);
    shim.shutdown().await.unwrap();
    daemon.stop().await;
    world.ends_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_finds_the_bundle_of_another_says_nothing_of_that_one() {
    if common::skip() {
        return;
    }
    let world = World::new();
    let daemon = world.boot().await;
    let mut shim = serve(&world, &daemon, true).await;
    let mut events = daemon.subscribe(None);
    let bundle = world.path().join("state").join(&world.namespace).join("a");
    std::fs::create_dir_all(&bundle).unwrap();
    daemon.events.forward(created(&world.namespace, "a".into(), INIT)).unwrap();
    let refused = daemon.tasks.create(world.create("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    daemon.events.publish(&world.namespace, "/marker", Any::default()).unwrap();
    let heard = until(&mut events, "/marker").await;
    assert_eq!(topics(&heard), ["/tasks/create", "/marker"]);
    std::fs::remove_dir(bundle).unwrap();
    shim.shutdown().await.unwrap();
    daemon.stop().await;
    world.ends_empty();
}
