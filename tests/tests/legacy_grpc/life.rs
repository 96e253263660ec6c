//! Containers and their processes, from start to end.

use std::{
    fs,
    io::{Read, Write},
    os::fd::AsFd,
};

use anyhow::{Context, Result, ensure};
use containerd_api::legacy::{
    AddProcessRequest, Checkpoint, CreateCheckpointRequest, CreateContainerRequest,
    DeleteCheckpointRequest, ListCheckpointRequest, StateRequest, StatsRequest, User,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::json;
use tests::{
    Bed, Origin, Status, code, eventually,
    legacy::{LegacyEvents, text},
    within,
};
use tokio::{io::AsyncReadExt, net::unix::pipe};
use tonic::Code;

use crate::calls::{SIGKILL, SIGTERM, create, end, gone, shell, signal, start, update};

/// All ten methods, one after the other.
pub(crate) async fn every_method(bed: &mut Bed) -> Result<()> {
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
pub(crate) async fn streams_are_files_or_fifos(bed: &mut Bed) -> Result<()> {
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

/// Who hears of an end finds all output, and hears of others meanwhile.
pub(crate) async fn ends_follow_their_output(bed: &mut Bed) -> Result<()> {
    const LENGTH: usize = 20_000;
    bed.enable_legacy("").await?;
    // Those of today are told at once.
    let others = bed.events().await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    start(bed, "b", "sleep 1000").await?;
    let path = bed.sandbox.path("slow");
    mkfifo(&path, Mode::S_IRWXU)?;
    let mut fifo = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
    // Most of the output has to wait in the shim.
    fcntl(&fifo, FcntlArg::F_SETPIPE_SZ(4096))?;
    let request = CreateContainerRequest {
        id: "a".into(),
        bundle_path: text(&bed.bundle("a", &format!("head -c {LENGTH} /dev/zero"))?)?,
        stdout: text(&path)?,
        ..CreateContainerRequest::default()
    };
    let pid = create(bed, request).await?;
    others.exit_of("a", "a").await?;
    update(bed, "b", "paused", 0).await?;
    events.wait("updateContainer", "b", 0).await?;
    ensure!(events.all().iter().all(|event| event.r#type != "exit"), "{:?}", events.all());

    let mut output = vec![1; LENGTH];
    within("output", fifo.read_exact(&mut output)).await??;
    ensure!(output.iter().all(|byte| *byte == 0), "other output");
    assert_eq!(events.wait("exit", "a", pid).await?.status, 0);
    gone(bed, "a").await?;
    update(bed, "b", "running", 0).await?;
    end(bed, "b").await
}

/// A console is the path of a terminal that the client has made.
pub(crate) async fn terminal_of_the_client(bed: &mut Bed) -> Result<()> {
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
pub(crate) fn terminal() -> Result<(fs::File, String)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    Ok((master.as_fd().try_clone_to_owned()?.into(), path))
}

/// Reads until `text` has come.
pub(crate) async fn until(mut screen: fs::File, text: &'static str) -> Result<String> {
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
pub(crate) async fn other_apis_see_the_same_containers(bed: &mut Bed) -> Result<()> {
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

/// A name can be used again as soon as its container has ended.
pub(crate) async fn containers_that_ended_make_room(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    for number in 0..10 {
        let pid = start(bed, "again", &format!("exit {number}")).await?;
        assert_eq!(events.wait("exit", "again", pid).await?.status, number);
    }
    gone(bed, "again").await
}

/// The kernel kills for want of memory.
pub(crate) async fn out_of_memory_is_told(bed: &mut Bed) -> Result<()> {
    bed.enable_legacy("").await?;
    let mut events = LegacyEvents::subscribe(bed).await?;
    let spec = bed.spec("a", "exec sleep 1000").memory_limit(16 << 20);
    let bundle_path = text(&bed.bundle_of("a", &spec)?)?;
    create(bed, CreateContainerRequest { id: "a".into(), bundle_path, ..Default::default() })
        .await?;
    // Init needs no memory meanwhile, so it is not what the kernel kills.
    let hog = shell("a", "head -c 200000000 /dev/zero | tail -n 1");
    bed.legacy().add_process(hog).await?;
    events.wait("oom", "a", 0).await?;
    end(bed, "a").await
}

/// `runc spec` writes a configuration that is fine as it is, but for its
/// terminal and what it runs.
pub(crate) async fn bundle_as_runc_makes_it(bed: &mut Bed) -> Result<()> {
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
