//! The daemon goes away and comes back. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::symlink, process::ExitStatusExt},
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use common::{Event, PATIENCE, World, exec, id, names_in, with_shim};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use runtime_v2::{Recovered, Status, Timeouts};
use shim_protocol::{ErrorKind, Id};

for_each_shim!(
    live_and_ended_containers,
    a_shim_that_died_meanwhile,
    a_create_that_was_cut_short,
    a_start_that_was_cut_short,
    a_shim_that_waits_for_somebody_to_read_its_log,
    a_delete_that_was_cut_short,
    a_shim_that_hangs_delays_no_other,
    many_at_once,
);

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Waits until a process is gone, without a handle of it.
async fn ended(pid: u32) {
    let gone = async {
        while fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("process does not end");
}

/// The same for a container's process, of which its shim knows then.
async fn reaped(pid: u32) {
    ended(pid).await;
    let gone = async {
        while fs::exists(format!("/proc/{pid}")).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("process is not reaped");
}

fn exits(world: &World) -> Vec<(String, u32)> {
    world.log.of("/tasks/exit").into_iter().map(|e: Event| (e.process, e.status)).collect()
}

/// A script that says when it is ready, and ends when it is told to.
fn ends_on_term(status: u32, name: &str) -> String {
    format!("trap 'exit {status}' TERM; : > /tmp/{name}; while :; do sleep 0.05; done")
}

async fn live_and_ended_containers(mut world: World) -> World {
    let a = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    let b = world.manager.create(world.request("b", &ends_on_term(42, "b"))).await.unwrap();
    let c = world.manager.create(world.request("c", "true")).await.unwrap();
    a.start(None).await.unwrap();
    b.start(None).await.unwrap();
    let (e, f) = (id("e"), id("f"));
    a.exec(exec("e", &ends_on_term(5, "e"))).await.unwrap();
    a.exec(exec("f", "sleep 1000")).await.unwrap();
    let (e_pid, f_pid) = (a.start(Some(&e)).await.unwrap(), a.start(Some(&f)).await.unwrap());
    for name in ["b", "e"] {
        world.said(name).await;
    }

    let recovered = world
        .restart(async |_| {
            for pid in [b.pid(), e_pid] {
                signal(pid, Signal::SIGTERM);
                reaped(pid).await;
            }
        })
        .await;
    assert_eq!(recovered, Recovered { live: 2, stopped: 1, ..Default::default() });
    let mut announced = exits(&world);
    announced.sort();
    assert_eq!(announced, [("b".into(), 42), ("e".into(), 5)]);

    let get = |world: &World, name: &str| world.manager.get(&world.namespace, &id(name)).unwrap();
    assert_eq!((get(&world, "a").pid(), get(&world, "c").pid()), (a.pid(), c.pid()));
    let a = get(&world, "a");
    assert_eq!(a.state(None).await.unwrap().status, Status::Running);
    assert_eq!(a.state(Some(&f)).await.unwrap().pid, f_pid);
    let ended = a.state(Some(&e)).await.unwrap();
    assert_eq!((ended.status, ended.exit.unwrap().status), (Status::Stopped, 5));
    let b = get(&world, "b");
    let state = b.state(None).await.unwrap();
    assert_eq!((state.status, state.exit.unwrap().status), (Status::Stopped, 42));
    assert_eq!(b.wait(None).await.unwrap(), state.exit.unwrap());

    // A second restart announces nothing twice.
    let recovered = world.restart(async |_| {}).await;
    assert_eq!(recovered, Recovered { live: 2, stopped: 1, ..Default::default() });
    assert_eq!(exits(&world).len(), 2);

    let a = get(&world, "a");
    a.kill(None, 9, true).await.unwrap();
    a.wait(None).await.unwrap();
    a.delete().await.unwrap();
    assert_eq!(get(&world, "b").delete().await.unwrap().exit.status, 42);
    get(&world, "c").delete().await.unwrap();
    world
}

async fn a_shim_that_died_meanwhile(mut world: World) -> World {
    let a = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    a.start(None).await.unwrap();
    let e = id("e");
    a.exec(exec("e", "sleep 1000")).await.unwrap();
    a.start(Some(&e)).await.unwrap();
    let b = world.manager.create(world.request("b", "sleep 1000")).await.unwrap();
    b.start(None).await.unwrap();
    let shim = world.shim_of("a");
    let recovered = world
        .restart(async |_| {
            kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
            ended(shim.try_into().unwrap()).await;
        })
        .await;
    assert_eq!(recovered, Recovered { live: 1, cleaned: 1, ..Default::default() });
    assert_eq!(exits(&world), [("e".into(), 137), ("a".into(), 137)]);
    assert_eq!(world.log.of("/tasks/delete")[0].container, "a");
    let b = world.manager.get(&world.namespace, &id("b")).unwrap();
    b.kill(None, 9, false).await.unwrap();
    b.wait(None).await.unwrap();
    b.delete().await.unwrap();
    world
}

/// The shim runs, but knows no container; in the bundle there is nothing that
/// says where it listens.
async fn a_create_that_was_cut_short(mut world: World) -> World {
    let a = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    let b = world.manager.create(world.request("b", "true")).await.unwrap();
    let bundle = world.bundle("a");
    let recovered = world
        .restart(async |world| {
            for name in ["bootstrap.json", "address"] {
                fs::remove_file(bundle.join(name)).unwrap();
            }
            // As far as the bundle of a create goes before the shim starts.
            let early = world.bundle("early");
            fs::create_dir_all(early.join("rootfs")).unwrap();
            fs::write(early.join("config.json"), "{}").unwrap();
        })
        .await;
    assert_eq!(recovered, Recovered { live: 2, cleaned: 1, ..Default::default() });
    for (name, pid) in [("a", a.pid()), ("b", b.pid())] {
        let task = world.manager.get(&world.namespace, &id(name)).unwrap();
        assert_eq!(task.pid(), pid);
        task.delete().await.unwrap();
    }
    world
}

/// The shim was about to start when the daemon died; it must not start later.
async fn a_start_that_was_cut_short(mut world: World) -> World {
    let endless = r#"case "$*" in *start) while :; do sleep 0.05; done;; esac"#;
    let shim = world.script_shim(endless);
    let bundle = world.bundle("a");
    let mut start = None;
    let recovered = world
        .restart(async |_| {
            fs::create_dir_all(bundle.join("rootfs")).unwrap();
            fs::write(bundle.join("config.json"), "{}").unwrap();
            fs::write(bundle.join("shim-binary-path"), &shim).unwrap();
            let mut command = std::process::Command::new(&shim);
            start = Some(command.args(["-id", "a", "start"]).current_dir(&bundle).spawn().unwrap());
        })
        .await;
    assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
    let ended = start.unwrap().try_wait().unwrap().expect("the start goes on");
    assert_eq!(ended.signal(), Some(libc::SIGKILL));
    assert!(world.log.all().is_empty());
    world
}

/// The daemon died before the shim it started was ready. Go's opens its log
/// before it serves, and that takes a reader.
async fn a_shim_that_waits_for_somebody_to_read_its_log(mut world: World) -> World {
    let bundle = world.bundle("a");
    let recovered = world
        .restart(async |world| {
            fs::create_dir_all(bundle.join("rootfs")).unwrap();
            let spec = common::spec(&world.cgroup("a"), &["true"], &[]);
            fs::write(bundle.join("config.json"), spec).unwrap();
            fs::write(bundle.join("shim-binary-path"), world.shim.to_str().unwrap()).unwrap();
            mkfifo(&bundle.join("log"), Mode::S_IRWXU).unwrap();
            let config = common::config(world.folder.path(), world.timeouts);
            let mut start = std::process::Command::new(&world.shim);
            start
                .args(["-namespace", world.namespace.as_str(), "-id", "a"])
                .args(["-address", &config.grpc_address, "-publish-binary", "/bin/false", "start"])
                .env("TTRPC_ADDRESS", &config.ttrpc_address)
                .current_dir(&bundle)
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            assert!(start.status().unwrap().success());
            // One that is about to execute a helper looks like two for a moment.
            assert!(!world.shims().is_empty());
        })
        .await;
    assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
    assert!(world.log.all().is_empty());
    world
}

/// The shim has deleted its container, but the daemon did not see it end.
async fn a_delete_that_was_cut_short(mut world: World) -> World {
    let a = world.manager.create(world.request("a", "exit 3")).await.unwrap();
    a.start(None).await.unwrap();
    a.wait(None).await.unwrap();
    world.log.exit_of("a").await;
    let (address, namespace) =
        (fs::read_to_string(world.bundle("a").join("address")).unwrap(), world.namespace.clone());
    let recovered = world
        .restart(async |_| {
            delete_behind_the_back(&address, &namespace).await;
        })
        .await;
    assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
    assert_eq!(exits(&world), [("a".into(), 3)]);
    assert_eq!(world.log.of("/tasks/delete").len(), 1);
    world
}

async fn delete_behind_the_back(address: &str, namespace: &Id) {
    use shim_protocol::proto::{task_v2::DeleteRequest, task_v2_ttrpc::TaskClient};
    let client = ttrpc::asynchronous::Client::connect(address).await.unwrap();
    let mut context = ttrpc::context::with_duration(PATIENCE);
    context.add(shim_protocol::rpc::NAMESPACE_KEY.into(), namespace.to_string());
    let request = DeleteRequest { id: "a".into(), ..Default::default() };
    TaskClient::new(client).delete(context, &request).await.unwrap();
}

async fn a_shim_that_hangs_delays_no_other(mut world: World) -> World {
    let a = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    let b = world.manager.create(world.request("b", "sleep 1000")).await.unwrap();
    a.start(None).await.unwrap();
    b.start(None).await.unwrap();
    let shim = Pid::from_raw(world.shim_of("a"));
    let limit = Duration::from_millis(500);
    world.timeouts = Timeouts { load: limit, state: limit, ..Timeouts::default() };
    let recovered = world.restart(async |_| kill(shim, Signal::SIGSTOP).unwrap()).await;
    // It may be back in a moment, so its container is left alone.
    assert_eq!(recovered, Recovered { live: 2, ..Default::default() });
    kill(shim, Signal::SIGCONT).unwrap();
    for (name, pid) in [("a", a.pid()), ("b", b.pid())] {
        let task = world.manager.get(&world.namespace, &id(name)).unwrap();
        assert_eq!(task.pid(), pid);
        task.kill(None, 9, false).await.unwrap();
        task.wait(None).await.unwrap();
        task.delete().await.unwrap();
    }
    world
}

async fn many_at_once(mut world: World) -> World {
    const COUNT: usize = 10;
    let name = |n: usize| format!("n{n}");
    for n in 0..COUNT {
        let script = if n % 2 == 0 { "sleep 1000" } else { "exit 9" };
        let task = world.manager.create(world.request(&name(n), script)).await.unwrap();
        task.start(None).await.unwrap();
    }
    for n in (1..COUNT).step_by(2) {
        world.log.exit_of(&name(n)).await;
    }
    let recovered = world.restart(async |_| {}).await;
    let half = COUNT / 2;
    assert_eq!(recovered, Recovered { live: half, stopped: half, ..Default::default() });
    assert_eq!(exits(&world).len(), half);
    let deleting: Vec<_> = (0..COUNT)
        .map(|n| {
            let task = world.manager.get(&world.namespace, &id(&name(n))).unwrap();
            tokio::spawn(async move {
                if n % 2 == 0 {
                    task.kill(None, 9, false).await.unwrap();
                    task.wait(None).await.unwrap();
                }
                task.delete().await.unwrap();
            })
        })
        .collect();
    for task in deleting {
        task.await.unwrap();
    }
    assert_eq!(exits(&world).len(), COUNT);
    assert_eq!(world.log.of("/tasks/delete").len(), COUNT);
    world
}

/// A socket that lets nobody in, and one who waits before it; more may not.
fn listen_to_nobody(path: &Path) -> [OwnedFd; 2] {
    let socket = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
    };
    let (listener, waiting) = (socket(), socket());
    let address = UnixAddr::new(path).unwrap();
    socket::bind(listener.as_raw_fd(), &address).unwrap();
    socket::listen(&listener, Backlog::new(0).unwrap()).unwrap();
    socket::connect(waiting.as_raw_fd(), &address).unwrap();
    [listener, waiting]
}

/// Folders that no daemon would leave.
#[tokio::test]
async fn garbage() {
    with_shim(Path::new("/bin/sh"), async |mut world: World| {
        let precious = world.folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "data").unwrap();
        let at = precious.clone();
        let mut crowd = Vec::new();
        let recovered = world
            .restart(async |world| {
                let make = |name: &str| {
                    let folder = world.bundle(name);
                    fs::create_dir_all(&folder).unwrap();
                    folder
                };
                make("empty");
                fs::write(make("junk").join("core"), "junk").unwrap();
                fs::create_dir_all(make("junk").join("deep/deeper")).unwrap();
                let nonsense = make("nonsense");
                fs::write(nonsense.join("bootstrap.json"), "{ nonsense").unwrap();
                fs::write(nonsense.join("shim-binary-path"), [0xff, 0xfe]).unwrap();
                // Of these it cannot be told whether a container lives.
                let newer = make("newer");
                let bootstrap = r#"{"version":9,"address":"unix:///s","protocol":"ttrpc"}"#;
                fs::write(newer.join("bootstrap.json"), bootstrap).unwrap();
                let busy = make("busy");
                fs::write(busy.join("shim-binary-path"), "/nowhere/shim").unwrap();
                let socket = world.folder.path().join("busy.sock");
                crowd.push(listen_to_nobody(&socket));
                fs::write(busy.join("address"), format!("unix://{}", socket.display())).unwrap();
                let gone = make("gone");
                fs::write(gone.join("shim-binary-path"), "/nowhere/shim").unwrap();
                fs::write(gone.join("address"), "unix:///nowhere/s").unwrap();
                // Links and mounts lead to what is not ours to remove.
                let linked = make("linked");
                symlink(&at, linked.join("work")).unwrap();
                symlink(&at, linked.join("rootfs")).unwrap();
                let mounted = make("mounted");
                for name in ["rootfs", "other"] {
                    fs::create_dir(mounted.join(name)).unwrap();
                    let target = mounted.join(name);
                    mount(Some(&at), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                        .unwrap();
                }
                // Somebody unpacked a root filesystem here by hand.
                let rootfs = make("rootfs-of-files").join("rootfs");
                fs::create_dir(&rootfs).unwrap();
                fs::write(rootfs.join("file"), "data").unwrap();
                // Half removed, not a folder, and not an id.
                fs::create_dir_all(world.bundle(".halfway").join("x")).unwrap();
                fs::write(world.bundle("a-file"), "").unwrap();
                fs::create_dir(world.bundle("no id")).unwrap();
                let unused = world.folder.path().join("root").join(&world.namespace).join("unused");
                fs::create_dir_all(unused).unwrap();
            })
            .await;
        assert_eq!(recovered, Recovered { cleaned: 6, left: 5, ..Default::default() });
        for name in ["newer", "busy"] {
            assert!(world.manager.is_known(&world.namespace, &id(name)));
            let refused = world.manager.create(world.request(name, "true")).await.err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "data");
        let folder = world.bundle("..").canonicalize().unwrap().join(&world.namespace);
        let mut left = names_in(&folder);
        left.sort();
        assert_eq!(left, ["a-file", "busy", "newer", "no id", "rootfs-of-files"]);
        assert!(folder.join("rootfs-of-files/rootfs/file").exists());
        assert_eq!(world.log.all(), []);
        fs::remove_dir_all(&folder).unwrap();
        world
    })
    .await;
}
