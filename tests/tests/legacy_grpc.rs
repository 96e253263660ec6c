//! The gRPC API of containerd 0.0.4, driven by a client made from its proto.

use std::{
    fs,
    io::{Read, Write},
    os::fd::AsFd,
};

use anyhow::{Context, Result, ensure};
use containerd_api::{
    legacy::{
        AddProcessRequest, Checkpoint, CreateCheckpointRequest, CreateContainerRequest,
        DeleteCheckpointRequest, ListCheckpointRequest, SignalRequest, StateRequest, StatsRequest,
        UpdateContainerRequest, User,
    },
    services::containers::v1::GetContainerRequest,
};
use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::Signal,
};
use serde_json::json;
use tests::{
    Bed, Origin, Status, code, eventually, leaks,
    legacy::{LegacyEvents, text},
    proc, within,
};
use tonic::Code;

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    every_method,
    streams_are_files_or_fifos,
    terminal_of_the_client,
    other_apis_see_the_same_containers,
    daemon_dies_while_containers_run,
    containers_that_ended_make_room,
    checkpoints_are_listed_and_removed,
    nonsense_is_refused,
    failed_starts_leave_nothing,
    many_at_once,
    daemon_dies_while_containers_are_made,
    out_of_memory_is_told,
    bundle_as_runc_makes_it,
);
tests::pairing!(
    our_daemon,
    tests::Pairing::OUR_DAEMON,
    every_method,
    daemon_dies_while_containers_run,
);
tests::pairing!(ours_with_runc, tests::Pairing::OURS_WITH_RUNC, every_method);

const SIGKILL: u32 = Signal::SIGKILL as u32;
const SIGTERM: u32 = Signal::SIGTERM as u32;

async fn start(bed: &Bed, id: &str, script: &str) -> Result<u32> {
    let bundle_path = text(&bed.bundle(id, script)?)?;
    create(bed, CreateContainerRequest { id: id.into(), bundle_path, ..Default::default() }).await
}

async fn create(bed: &Bed, request: CreateContainerRequest) -> Result<u32> {
    let created = within("create", bed.legacy().create_container(request)).await??;
    Ok(created.into_inner().pid)
}

async fn add(bed: &Bed, id: &str, script: &str) -> Result<u32> {
    let request = shell(id, script);
    let added = within("add a process", bed.legacy().add_process(request)).await??;
    Ok(added.into_inner().pid)
}

fn shell(id: &str, script: &str) -> AddProcessRequest {
    AddProcessRequest {
        id: id.into(),
        args: ["sh", "-c", script].map(String::from).into(),
        env: vec!["PATH=/bin".into()],
        user: Some(User::default()),
        ..AddProcessRequest::default()
    }
}

async fn signal(bed: &Bed, id: &str, pid: u32, signal: u32) -> Result<(), tonic::Status> {
    let request = SignalRequest { id: id.into(), pid, signal };
    bed.legacy().signal(request).await.map(drop)
}

async fn update(bed: &Bed, id: &str, status: &str, signal: u32) -> Result<(), tonic::Status> {
    let request = UpdateContainerRequest { id: id.into(), status: status.into(), signal };
    bed.legacy().update_container(request).await.map(drop)
}

/// Ends a container, and waits until it is gone.
async fn end(bed: &Bed, id: &str) -> Result<()> {
    signal(bed, id, 0, SIGKILL).await?;
    gone(bed, id).await
}

async fn gone(bed: &Bed, id: &str) -> Result<()> {
    eventually(async || {
        let found = bed.legacy_container(id).await;
        ensure!(found.is_err(), "{id} is still there: {found:?}");
        let record = bed.api().containers().get(GetContainerRequest { id: id.into() }).await;
        ensure!(record.is_err(), "the record of {id} is still there");
        Ok(())
    })
    .await
}

/// All ten methods, one after the other.
async fn every_method(bed: &mut Bed) -> Result<()> {
    let mut api = bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    let pid = start(bed, "redis", "trap 'exit 7' TERM; while :; do sleep 0.1; done").await?;
    let started = events.wait("startContainer", "redis", pid).await?;
    let bundle = text(&bed.sandbox.path("bundles/redis"))?;
    assert_eq!(started.bundle_path, bundle);

    let user = User { uid: 1000, gid: 1000, additional_gids: vec![5] };
    let added = api
        .add_process(AddProcessRequest {
            user: Some(user.clone()),
            cwd: "/tmp".into(),
            ..shell("redis", "exec sleep 1000")
        })
        .await?
        .into_inner()
        .pid;
    events.wait("addProcess", "redis", added).await?;

    let state = api.state(StateRequest {}).await?.into_inner();
    let machine = state.machine.context("machine")?;
    assert_eq!(machine.id, "box");
    ensure!(machine.cpus > 0 && machine.memory > 1 << 20, "{machine:?}");
    assert_eq!(state.containers.len(), 1);
    let container = &state.containers[0];
    assert_eq!((container.id.as_str(), container.status.as_str()), ("redis", "running"));
    assert_eq!(container.bundle_path, bundle);
    let [init, other] = container.processes.as_slice() else {
        anyhow::bail!("processes {:?}", container.processes)
    };
    assert_eq!((init.pid, other.pid), (pid, added));
    assert_eq!(init.args[..2], ["/bin/sh", "-c"]);
    assert_eq!((init.cwd.as_str(), init.terminal), ("/", false));
    assert_eq!(other.args, ["sh", "-c", "exec sleep 1000"]);
    assert_eq!((&other.user, other.cwd.as_str()), (&Some(user), "/tmp"));
    let status = fs::read_to_string(format!("/proc/{added}/status"))?;
    ensure!(status.contains("Uid:\t1000\t1000"), "{status}");
    ensure!(status.contains("Groups:\t5"), "{status}");

    let mut stats = api.get_stats(StatsRequest { id: "redis".into() }).await?.into_inner();
    for _ in 0..2 {
        let figures = within("figures", stats.message()).await??.context("figures")?;
        ensure!(figures.timestamp > 1_500_000_000, "{figures:?}");
        ensure!(figures.network_stats.iter().any(|i| i.name == "lo"), "{figures:?}");
        let cgroup = figures.cgroup_stats.context("cgroup")?;
        let cpu = cgroup.cpu_stats.and_then(|cpu| cpu.cpu_usage).context("cpu")?;
        let memory = cgroup.memory_stats.and_then(|memory| memory.usage).context("memory")?;
        ensure!(cpu.total_usage > 0 && memory.usage > 0, "{cpu:?} {memory:?}");
    }

    update(bed, "redis", "paused", 0).await?;
    assert_eq!(bed.legacy_container("redis").await?.status, "paused");
    update(bed, "redis", "running", 0).await?;
    assert_eq!(bed.legacy_container("redis").await?.status, "running");
    events.wait("updateContainer", "redis", 0).await?;

    let request = CreateCheckpointRequest {
        id: "redis".into(),
        checkpoint: Some(Checkpoint { name: "one".into(), ..Checkpoint::default() }),
    };
    // Go's shim has runc try, which may find CRIU or not.
    if bed.daemon.pairing().shim == Origin::Ours {
        let (kind, message) = code(api.create_checkpoint(request).await)?;
        assert_eq!(kind, Code::Unimplemented, "{message}");
    }
    let list = ListCheckpointRequest { id: "redis".into() };
    assert_eq!(api.list_checkpoint(list).await?.into_inner().checkpoints, []);
    let request = DeleteCheckpointRequest { id: "redis".into(), name: "one".into() };
    assert_eq!(code(api.delete_checkpoint(request).await)?.0, Code::NotFound);
    ensure!(!bed.sandbox.path("bundles/redis/checkpoints/one").exists(), "left behind");

    signal(bed, "redis", added, SIGTERM).await?;
    // Clients of 0.0.4 wait for the second.
    let (exec, exit) = (
        events.wait("execExit", "redis", added).await?,
        events.wait("exit", "redis", added).await?,
    );
    assert_eq!((exec.status, exit.status), (128 + SIGTERM, 128 + SIGTERM));
    eventually(async || {
        let processes = bed.legacy_container("redis").await?.processes.len();
        ensure!(processes == 1, "{processes} processes");
        Ok(())
    })
    .await?;

    update(bed, "redis", "", SIGTERM).await?;
    assert_eq!(events.wait("exit", "redis", pid).await?.status, 7);
    // The figures end with the container, and not in an error.
    while within("end of figures", stats.message()).await??.is_some() {}
    gone(bed, "redis").await?;
    let exits = events.all().iter().filter(|event| event.r#type == "exit").count();
    assert_eq!(exits, 2);
    Ok(())
}

/// Files that are there are written to, FIFOs are read from and written to.
async fn streams_are_files_or_fifos(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    let mut stdio = bed.fifos("fifo", true, true)?;
    let request = CreateContainerRequest {
        id: "a".into(),
        bundle_path: text(&bed.bundle("a", "read x; echo got $x; echo bad >&2")?)?,
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        ..CreateContainerRequest::default()
    };
    let pid = create(bed, request.clone()).await?;
    stdio.input.as_mut().context("input")?.write(b"word\n").await?;
    assert_eq!(stdio.all_output().await?, "got word\n");
    assert_eq!(stdio.all_errors().await?, "bad\n");
    assert_eq!(events.wait("exit", "a", pid).await?.status, 0);
    gone(bed, "a").await?;

    let (input, output) = (bed.sandbox.path("in"), bed.sandbox.path("out"));
    fs::write(&input, "line\n")?;
    fs::write(&output, "")?;
    let files = CreateContainerRequest {
        id: "b".into(),
        bundle_path: text(&bed.bundle("b", "cat; sleep 1000")?)?,
        stdin: text(&input)?,
        stdout: text(&output)?,
        stderr: String::new(),
        ..request
    };
    create(bed, files).await?;
    eventually(async || {
        let text = fs::read_to_string(&output)?;
        ensure!(text == "line\n", "{text:?}");
        Ok(())
    })
    .await?;
    let more = AddProcessRequest { stdout: text(&output)?, ..shell("b", "echo more") };
    let added = bed.legacy().add_process(more).await?.into_inner().pid;
    events.wait("exit", "b", added).await?;
    assert_eq!(fs::read_to_string(&output)?, "line\nmore\n");
    end(bed, "b").await
}

/// A console is the path of a terminal that the client has made.
async fn terminal_of_the_client(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    let spec = bed.spec("a", "tty; read x; echo got $x; sleep 1000").terminal();
    let bundle_path = text(&bed.bundle_of("a", &spec)?)?;
    let (mut screen, console) = terminal()?;
    let request = CreateContainerRequest {
        id: "a".into(),
        bundle_path,
        console,
        ..CreateContainerRequest::default()
    };
    create(bed, request).await?;
    screen.write_all(b"word\n")?;
    let shown = until(screen, "got word").await?;
    ensure!(shown.contains("/dev/pts/"), "{shown:?}");

    let (screen, console) = terminal()?;
    let request =
        AddProcessRequest { terminal: true, console, ..shell("a", "test -t 0 && echo a tty") };
    let added = bed.legacy().add_process(request).await?.into_inner().pid;
    until(screen, "a tty").await?;
    assert_eq!(events.wait("exit", "a", added).await?.status, 0);
    ensure!(bed.legacy_container("a").await?.processes[0].terminal, "it has a terminal");
    // The client's end is closed by now, which the container survives.
    ensure!(bed.legacy_container("a").await?.status == "running", "it runs on");
    end(bed, "a").await
}

/// A terminal that nobody has opened, and the path of its other side.
fn terminal() -> Result<(fs::File, String)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    Ok((master.as_fd().try_clone_to_owned()?.into(), path))
}

/// Reads until `text` has come.
async fn until(mut screen: fs::File, text: &'static str) -> Result<String> {
    let read = tokio::task::spawn_blocking(move || {
        let (mut all, mut buffer) = (String::new(), [0; 1024]);
        while !all.contains(text) {
            let length = screen.read(&mut buffer)?;
            ensure!(length > 0, "the terminal ended: {all:?}");
            all.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        Ok(all)
    });
    within(text, read).await??
}

/// One set of containers, whichever API it is looked at through.
async fn other_apis_see_the_same_containers(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let pid = start(bed, "old", "sleep 1000").await?;
    let old = bed.process("old", "");
    let state = old.state().await?;
    assert_eq!((state.status(), state.pid), (Status::Running, pid));
    let listed = bed.ctr(tests::Origin::Ours).ok(&["containers", "ls"]).await?;
    ensure!(listed.contains("old"), "{listed}");
    let new = bed.start_container("new", "sleep 1000").await?;
    let seen = bed.legacy_container("new").await?;
    assert_eq!((seen.status.as_str(), seen.processes[0].pid), ("running", new.pid));

    // Each can be stopped through the other; what others made stays theirs.
    old.kill(Signal::SIGKILL).await?;
    gone(bed, "old").await?;
    signal(bed, "new", new.pid, SIGKILL).await?;
    assert_eq!(new.wait().await?.status, 137);
    assert_eq!(bed.legacy_container("new").await?.status, "stopped");
    let request = CreateContainerRequest {
        id: "new".into(),
        bundle_path: text(&bed.bundle("new", "true")?)?,
        ..CreateContainerRequest::default()
    };
    let (kind, message) = code(bed.legacy().create_container(request).await)?;
    assert_eq!(kind, Code::AlreadyExists, "{message}");
    bed.remove(&new).await
}

/// Nothing of a container is only in the daemon's memory.
async fn daemon_dies_while_containers_run(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let lives = start(bed, "lives", "sleep 1000").await?;
    let dies = start(bed, "dies", "sleep 1000").await?;
    let vanishes = start(bed, "vanishes", "sleep 1000").await?;
    let kept = add(bed, "lives", "exec sleep 1001").await?;
    let ends = add(bed, "lives", "exec sleep 1002").await?;
    bed.daemon.kill().await?;
    for pid in [dies, ends] {
        proc::signal(pid, Signal::SIGKILL);
    }
    // With its shim nobody knows how it ended, but that it did.
    let shim = proc::shims_in(bed.namespace())
        .into_iter()
        .find(|shim| proc::arguments(*shim).iter().any(|argument| argument == "vanishes"));
    proc::signal(shim.context("shim")?, Signal::SIGKILL);
    eventually(async || {
        let left: Vec<_> = [dies, ends].into_iter().filter(|pid| proc::is_alive(*pid)).collect();
        ensure!(left.is_empty(), "{left:?} still run");
        Ok(())
    })
    .await?;
    bed.daemon.start(&bed.sandbox).await?;

    for _ in 0..2 {
        let container = bed.legacy_container("lives").await?;
        assert_eq!(container.status, "running");
        let processes: Vec<_> =
            container.processes.iter().map(|p| (p.pid, p.args.last().cloned())).collect();
        assert_eq!(processes[0].0, lives);
        assert_eq!(processes[1], (kept, Some("exec sleep 1001".into())));
        assert_eq!(processes.len(), 2);
        for (id, pid) in [("dies", dies), ("vanishes", vanishes)] {
            let container = bed.legacy_container(id).await?;
            assert_eq!(container.status, "stopped", "{id}");
            assert_eq!(container.bundle_path, text(&bed.sandbox.path("bundles").join(id))?);
            assert_eq!(container.processes[0].pid, pid, "{id}");
        }
        // Whoever subscribes hears of it, also from the next daemon.
        let mut events = LegacyEvents::subscribe(bed).await?;
        assert_eq!(events.wait("exit", "dies", dies).await?.status, 137);
        assert_eq!(events.wait("exit", "vanishes", vanishes).await?.status, 137);
        assert_eq!(events.wait("exit", "lives", ends).await?.status, 137);
        bed.crash().await?;
    }
    // It has ended, so nothing can be done with it.
    let (kind, message) = code(signal(bed, "dies", dies, SIGTERM).await)?;
    assert_eq!(kind, Code::NotFound, "{message}");

    // One makes room for its successor, the other is removed by hand.
    let mut events = LegacyEvents::subscribe(bed).await?;
    let again = start(bed, "dies", "exit 3").await?;
    assert_eq!(events.wait("exit", "dies", again).await?.status, 3);
    gone(bed, "dies").await?;
    bed.remove_record("vanishes").await?;
    signal(bed, "lives", kept, SIGTERM).await?;
    events.wait("exit", "lives", kept).await?;
    end(bed, "lives").await
}

/// A name can be used again as soon as its container has ended.
async fn containers_that_ended_make_room(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    for number in 0..10 {
        let pid = start(bed, "again", &format!("exit {number}")).await?;
        assert_eq!(events.wait("exit", "again", pid).await?.status, number);
    }
    gone(bed, "again").await
}

/// Checkpoints are folders of the bundle, whoever made them.
async fn checkpoints_are_listed_and_removed(bed: &mut Bed) -> Result<()> {
    let mut api = bed.enable_legacy("").await?;
    start(bed, "a", "sleep 1000").await?;
    let folder = bed.sandbox.path("bundles/a/checkpoints");
    for name in ["two", "one"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let config = json!({
        "created": "2015-12-04T15:09:14.915868934-08:00", "name": "two",
        "tcp": true, "unixSockets": false, "shell": true, "exit": false,
    });
    fs::write(folder.join("two/config.json"), config.to_string())?;
    let list = ListCheckpointRequest { id: "a".into() };
    let listed = api.list_checkpoint(list.clone()).await?.into_inner().checkpoints;
    let one = Checkpoint { name: "one".into(), ..Checkpoint::default() };
    let two = Checkpoint { name: "two".into(), tcp: true, shell: true, ..Checkpoint::default() };
    assert_eq!(listed, [one.clone(), two]);
    bed.crash().await?;
    let delete = DeleteCheckpointRequest { id: "a".into(), name: "two".into() };
    api.delete_checkpoint(delete.clone()).await?;
    assert_eq!(code(api.delete_checkpoint(delete).await)?.0, Code::NotFound);
    assert_eq!(api.list_checkpoint(list).await?.into_inner().checkpoints, [one]);
    for (name, wanted) in [
        ("", Code::InvalidArgument),
        ("../rootfs", Code::InvalidArgument),
        ("..", Code::InvalidArgument),
        ("nothing", Code::NotFound),
    ] {
        let request = DeleteCheckpointRequest { id: "a".into(), name: name.into() };
        assert_eq!(code(api.delete_checkpoint(request).await)?.0, wanted, "{name:?}");
    }
    // A start from one: it has to be there, and then it has to be possible.
    let restore = |checkpoint: &str| CreateContainerRequest {
        id: "b".into(),
        bundle_path: folder.parent().map(|p| p.display().to_string()).unwrap_or_default(),
        checkpoint: checkpoint.into(),
        ..CreateContainerRequest::default()
    };
    assert_eq!(code(api.create_container(restore("none")).await)?.0, Code::NotFound);
    assert_eq!(code(api.create_container(restore("one")).await)?.0, Code::Unimplemented);
    end(bed, "a").await
}

/// The right code for each, and nothing left behind.
async fn nonsense_is_refused(bed: &mut Bed) -> Result<()> {
    let mut api = bed.enable_legacy("").await?;
    let good = text(&bed.bundle("a", "sleep 1000")?)?;
    let one = start(bed, "one", "sleep 1000").await?;
    let other = start(bed, "other", "sleep 1000").await?;
    let request = |id: &str, bundle: &str| CreateContainerRequest {
        id: id.into(),
        bundle_path: bundle.into(),
        ..CreateContainerRequest::default()
    };
    let long = "x".repeat(77);
    for id in ["", "a/b", "..", "a b", "-a", "ä", &long] {
        let (kind, message) = code(api.create_container(request(id, &good)).await)?;
        assert_eq!(kind, Code::InvalidArgument, "{id:?}: {message}");
    }
    let broken = bed.sandbox.path("broken");
    fs::create_dir_all(broken.join("rootfs"))?;
    fs::write(broken.join("config.json"), "{\"ociVersion\": ")?;
    for (bundle, wanted) in [
        ("", Code::InvalidArgument),
        ("relative", Code::InvalidArgument),
        ("/nowhere", Code::NotFound),
        (&text(&broken)?, Code::InvalidArgument),
        (&text(bed.sandbox.folder())?, Code::NotFound),
    ] {
        let (kind, message) = code(api.create_container(request("a", bundle)).await)?;
        assert_eq!(kind, wanted, "{bundle:?}: {message}");
    }
    let (kind, _) = code(api.create_container(request("one", &good)).await)?;
    assert_eq!(kind, Code::AlreadyExists);
    for stdout in ["binary:///bin/true", "relative"] {
        let request = CreateContainerRequest { stdout: stdout.into(), ..request("a", &good) };
        assert_eq!(code(api.create_container(request).await)?.0, Code::InvalidArgument);
    }

    // Pids belong to their containers.
    for (id, pid, number, wanted) in [
        ("one", other, SIGTERM, Code::NotFound),
        ("one", 1, SIGTERM, Code::NotFound),
        ("one", std::process::id(), SIGTERM, Code::NotFound),
        ("one", u32::MAX, SIGTERM, Code::NotFound),
        ("one", one, 0, Code::InvalidArgument),
        ("one", one, 65, Code::InvalidArgument),
        ("one", one, u32::MAX, Code::InvalidArgument),
        ("ghost", one, SIGTERM, Code::NotFound),
        ("a/b", one, SIGTERM, Code::InvalidArgument),
    ] {
        let (kind, message) = code(signal(bed, id, pid, number).await)?;
        assert_eq!(kind, wanted, "{id} {pid} {number}: {message}");
    }
    for (id, status, number, wanted) in [
        ("one", "stopped", 0, Code::InvalidArgument),
        ("one", "", 99, Code::InvalidArgument),
        ("ghost", "paused", 0, Code::NotFound),
    ] {
        assert_eq!(code(update(bed, id, status, number).await)?.0, wanted, "{id} {status}");
    }
    let nothing = AddProcessRequest { args: Vec::new(), ..shell("one", "") };
    assert_eq!(code(api.add_process(nothing).await)?.0, Code::InvalidArgument);
    assert_eq!(code(api.add_process(shell("ghost", "true")).await)?.0, Code::NotFound);
    let nowhere = AddProcessRequest { args: vec!["/nowhere".into()], ..shell("one", "") };
    code(api.add_process(nowhere).await)?;
    assert_eq!(bed.legacy_container("one").await?.processes.len(), 1);
    update(bed, "one", "paused", 0).await?;
    assert_eq!(code(api.add_process(shell("one", "true")).await)?.0, Code::FailedPrecondition);
    update(bed, "one", "running", 0).await?;
    let stats = api.get_stats(StatsRequest { id: "ghost".into() }).await;
    assert_eq!(code(stats)?.0, Code::NotFound);
    let list = ListCheckpointRequest { id: "ghost".into() };
    assert_eq!(code(api.list_checkpoint(list).await)?.0, Code::NotFound);
    let without = CreateCheckpointRequest { id: "one".into(), checkpoint: None };
    assert_eq!(code(api.create_checkpoint(without).await)?.0, Code::InvalidArgument);
    let large = AddProcessRequest { env: vec!["x".repeat(17 << 20)], ..shell("one", "true") };
    code(api.add_process(large).await)?;
    assert_eq!(bed.legacy_container("one").await?.processes.len(), 1);
    end(bed, "one").await?;
    end(bed, "other").await
}

/// A start that fails half way takes back what it has done.
async fn failed_starts_leave_nothing(bed: &mut Bed) -> Result<()> {
    let mut api = bed.enable_legacy("").await?;
    let specs = [
        bed.spec("a", "").args(&["/nowhere"]),
        bed.spec("a", "true").set("/process/cwd", json!("/nowhere/at/all\u{0}")),
        bed.spec("a", "true").set("/linux/namespaces", json!([{ "type": "nonsense" }])),
    ];
    for spec in specs {
        let request = CreateContainerRequest {
            id: "a".into(),
            bundle_path: text(&bed.bundle_of("a", &spec)?)?,
            ..CreateContainerRequest::default()
        };
        code(api.create_container(request).await)?;
        ensure!(bed.legacy_container("a").await.is_err(), "it is in the state");
        ensure!(bed.remove_record("a").await.is_err(), "the record was left");
    }
    let missing = CreateContainerRequest {
        id: "a".into(),
        bundle_path: text(&bed.bundle("a", "true")?)?,
        stdout: "/nowhere/at/all".into(),
        ..CreateContainerRequest::default()
    };
    assert_eq!(code(api.create_container(missing).await)?.0, Code::NotFound);
    Ok(())
}

/// Of many who want the same name one gets it, and nobody gets in the way of
/// others.
async fn many_at_once(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    for id in ["same", "c0", "c1", "c2", "c3"] {
        bed.bundle(id, "sleep 1000")?;
    }
    let wanted = (0..4).flat_map(|n| ["same".to_owned(), format!("c{n}")]);
    let requests = wanted.map(|id| {
        let (mut api, bundle) = (bed.legacy(), bed.sandbox.path("bundles").join(&id));
        async move {
            let bundle_path = bundle.display().to_string();
            let request = CreateContainerRequest { id, bundle_path, ..Default::default() };
            api.create_container(request).await
        }
    });
    let answers = futures::future::join_all(requests).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    ensure!(refused.iter().all(|status| status.code() == Code::AlreadyExists), "{refused:?}");
    let state = bed.legacy().state(StateRequest {}).await?.into_inner();
    assert_eq!(state.containers.len(), 5);
    for id in ["same", "c0", "c1", "c2", "c3"] {
        signal(bed, id, 0, SIGKILL).await?;
        events.wait("exit", id, 0).await?;
        gone(bed, id).await?;
    }
    Ok(())
}

/// A daemon that dies in the midst of starts leaves containers that run, and
/// none that are half made.
async fn daemon_dies_while_containers_are_made(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let ids: Vec<_> = (0..8).map(|number| format!("c{number}")).collect();
    for id in &ids {
        bed.bundle(id, "sleep 1000")?;
    }
    for after in 1..=6 {
        let starts: Vec<_> = ids
            .iter()
            .map(|id| {
                let (mut api, bundle) = (bed.legacy(), bed.sandbox.path("bundles").join(id));
                let (id, bundle_path) = (id.clone(), bundle.display().to_string());
                tokio::spawn(async move {
                    let request = CreateContainerRequest { id, bundle_path, ..Default::default() };
                    api.create_container(request).await
                })
            })
            .collect();
        // Each time a little later, by what is seen of the starts.
        eventually(async || {
            let shims = proc::shims_in(bed.namespace()).len();
            ensure!(shims >= after, "{shims} shims");
            Ok(())
        })
        .await?;
        bed.daemon.kill().await?;
        let mut answered = Vec::new();
        for (id, start) in ids.iter().zip(starts) {
            if let Ok(answer) = within("an answer or none", start).await?? {
                answered.push((id.clone(), answer.into_inner().pid));
            }
        }
        bed.daemon.start(&bed.sandbox).await?;
        let state = bed.legacy().state(StateRequest {}).await?.into_inner();
        for (id, pid) in answered {
            let found = state.containers.iter().find(|container| container.id == id);
            let found = found.with_context(|| format!("{id} was answered and is gone"))?;
            assert_eq!((found.status.as_str(), found.processes[0].pid), ("running", pid));
        }
        for container in &state.containers {
            // Its end may be that of the daemon before, in the middle of an undo.
            match container.status.as_str() {
                "running" => end(bed, &container.id).await?,
                _ => {
                    start(bed, &container.id, "sleep 1000").await?;
                    end(bed, &container.id).await?;
                }
            }
        }
        leaks::check(&bed.sandbox, &bed.daemon).await?;
    }
    // All names are free.
    for id in &ids {
        start(bed, id, "sleep 1000").await?;
        end(bed, id).await?;
    }
    Ok(())
}

/// The kernel kills for want of memory.
async fn out_of_memory_is_told(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    let script = "head -c 200000000 /dev/zero | tail -n 1; sleep 1000";
    let spec = bed.spec("a", script).memory_limit(16 << 20);
    let bundle_path = text(&bed.bundle_of("a", &spec)?)?;
    create(bed, CreateContainerRequest { id: "a".into(), bundle_path, ..Default::default() })
        .await?;
    events.wait("oom", "a", 0).await?;
    end(bed, "a").await
}

/// `runc spec` writes a configuration that is fine as it is, but for its
/// terminal and what it runs.
async fn bundle_as_runc_makes_it(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let bundle = bed.bundle("a", "true")?;
    let config = bundle.join("config.json");
    fs::remove_file(&config)?;
    let made =
        std::process::Command::new("runc").arg("spec").arg("--bundle").arg(&bundle).status()?;
    ensure!(made.success(), "runc spec: {made}");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config)?)?;
    assert_eq!(spec["linux"].get("cgroupsPath"), None);
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["sleep", "1000"]);
    fs::write(&config, spec.to_string())?;
    let request = CreateContainerRequest {
        id: "a".into(),
        bundle_path: text(&bundle)?,
        ..CreateContainerRequest::default()
    };
    let pid = create(bed, request).await?;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(cgroups.contains(&format!("/{}/a", bed.namespace())), "{cgroups}");
    end(bed, "a").await
}
