//! The life of a container, through the plain gRPC API.

use anyhow::{Context, Result, ensure};
use containerd_api::{
    cgroups, from_any,
    services::tasks::v1::{ListTasksRequest, MetricsRequest},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tests::{Bed, Pairing, Status, Stdio, Topic, code, order, proc};
use tonic::Code;

tests::every_pairing!(
    create_start_exit_delete,
    exit_codes_are_true,
    output_arrives_whole,
    input_arrives_and_ends,
    terminal_and_its_size,
    exec_has_its_own_life,
    exec_with_terminal,
    signals_are_delivered,
    kill_all_reaches_every_process,
    pause_and_resume,
    pids_are_those_of_the_kernel,
    limits_can_change,
    metrics_are_measured,
    rootfs_is_mounted,
    overlay_is_mounted,
    created_but_never_started,
    wrong_order_is_refused,
    no_streams,
);

// Without rootfs_is_mounted: crun lets a container write to a root that is
// mounted read-only, unless the spec says read-only too.
tests::with_crun!(
    create_start_exit_delete,
    exit_codes_are_true,
    input_arrives_and_ends,
    terminal_and_its_size,
    exec_has_its_own_life,
    exec_with_terminal,
    signals_are_delivered,
    kill_all_reaches_every_process,
    pause_and_resume,
    pids_are_those_of_the_kernel,
    limits_can_change,
    metrics_are_measured,
    overlay_is_mounted,
    created_but_never_started,
    wrong_order_is_refused,
);

/// The whole way, with all its events.
async fn create_start_exit_delete(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let mut task = bed.create("life", "echo hello; echo trouble >&2; exit 3").await?;
    let state = task.state().await?;
    assert_eq!(state.status(), Status::Created);
    assert_eq!(state.pid, task.pid);
    assert!(proc::is_alive(task.pid));
    assert_eq!(state.stdout, task.stdio.stdout);

    task.start().await?;
    let exit = task.wait().await?;
    assert_eq!(exit.status, 3);
    assert_eq!(task.stdio.all_output().await?, "hello\n");
    assert_eq!(task.stdio.all_errors().await?, "trouble\n");

    let state = task.state().await?;
    assert_eq!(state.status(), Status::Stopped);
    assert_eq!(state.exit_status, 3);
    assert_eq!(state.exited_at, exit.at);

    let deleted = task.delete().await?;
    assert_eq!(deleted, exit);
    events.delete_of("life").await?;
    let all = events.all();
    order::check(&all)?;
    let topics: Vec<_> = all.iter().map(|event| event.topic).collect();
    assert_eq!(topics, [Topic::Create, Topic::Start, Topic::Exit, Topic::Delete]);
    let announced = events.exit_of("life", "life").await?;
    assert_eq!(announced.pid, task.pid);
    assert_eq!(announced.status, Some(3));
    assert_eq!(announced.exited_at, exit.at);
    assert_eq!(announced.namespace, bed.namespace());

    let (gone, message) = code(task.state().await)?;
    assert_eq!(gone, Code::NotFound, "{message}");
    bed.remove_record("life").await
}

/// An exit code is passed on; a signal is 128 plus its number.
async fn exit_codes_are_true(bed: &mut Bed) -> Result<()> {
    for (id, script, status) in [
        ("zero", "exit 0", 0),
        ("high", "exit 255", 255),
        ("signal", "kill -TERM $$", 0),
        ("killed", "sleep 1000", 137),
    ] {
        let mut task = bed.create(id, script).await?;
        task.start().await?;
        if id == "killed" {
            task.kill(Signal::SIGKILL).await?;
        }
        // Init of a pid namespace is immune to signals from within.
        assert_eq!(task.wait().await?.status, status, "{id}");
        bed.remove(&task).await?;
    }
    Ok(())
}

/// Nothing is lost, and nothing is mixed, in some megabytes.
async fn output_arrives_whole(bed: &mut Bed) -> Result<()> {
    const LINES: usize = 300_000;
    let script = format!("seq 1 {LINES}; seq 1 {LINES} | sed s/^/e/ >&2");
    let mut task = bed.start_container("large", &script).await?;
    assert_eq!(task.wait().await?.status, 0);
    let output = task.stdio.all_output().await?;
    let errors = task.stdio.all_errors().await?;
    for (text, prefix) in [(output, ""), (errors, "e")] {
        let mut count = 0;
        for (line, number) in text.lines().zip(1..) {
            ensure!(line == format!("{prefix}{number}"), "line {number} is {line:?}");
            count += 1;
        }
        assert_eq!(count, LINES);
    }
    bed.remove(&task).await
}

/// What a client writes comes in, and CloseIO ends it.
async fn input_arrives_and_ends(bed: &mut Bed) -> Result<()> {
    const BYTES: usize = 3_000_000;
    let spec = bed.spec("input", "wc -c; echo end");
    let container = bed.container("input", &spec).await?;
    let mut task = container.task(false, Vec::new(), bed.fifos("input", true, true)?).await?;
    task.start().await?;
    let mut input = task.stdio.input.take().context("standard input")?;
    input.write(&vec![b'x'; BYTES]).await?;
    // The shim holds the FIFO too, so closing our end is not enough.
    drop(input);
    assert_eq!(task.state().await?.status(), Status::Running);
    task.close_stdin().await?;
    assert_eq!(task.wait().await?.status, 0);
    assert_eq!(task.stdio.all_output().await?, format!("{BYTES}\nend\n"));
    bed.remove(&task).await
}

/// A terminal has the size that the client says, and tells of changes.
async fn terminal_and_its_size(bed: &mut Bed) -> Result<()> {
    let script = "trap 'stty size; exit 7' WINCH; echo ready; \
                  while true; do read line && echo got $line; done";
    let spec = bed.spec("tty", script).terminal();
    let container = bed.container("tty", &spec).await?;
    let mut task = container.task(true, Vec::new(), bed.fifos("tty", true, false)?).await?;
    task.start().await?;
    let mut screen = task.stdio.output.take().context("standard output")?;
    screen.until("ready\r\n").await?;
    let mut keyboard = task.stdio.input.take().context("standard input")?;
    keyboard.write(b"word\n").await?;
    screen.until("got word\r\n").await?;
    task.resize(101, 33).await?;
    // The shell handles the trap when its read returns.
    keyboard.write(b"\n").await?;
    screen.until("33 101\r\n").await?;
    assert_eq!(task.wait().await?.status, 7);
    assert!(task.state().await?.terminal);
    bed.remove(&task).await
}

/// An exec comes and goes while init stays.
async fn exec_has_its_own_life(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("host", "sleep 1000").await?;
    let stdio = bed.fifos("job", true, true)?;
    let mut exec = task.exec("job", "cat; echo done >&2; exit 5", false, stdio).await?;
    assert_eq!(exec.state().await?.status(), Status::Created);
    exec.start().await?;
    assert_eq!(exec.state().await?.status(), Status::Running);
    exec.stdio.input.take().context("standard input")?.write(b"typed\n").await?;
    exec.close_stdin().await?;
    let exit = exec.wait().await?;
    assert_eq!(exit.status, 5);
    assert_eq!(exec.stdio.all_output().await?, "typed\n");
    assert_eq!(exec.stdio.all_errors().await?, "done\n");
    assert_eq!(exec.state().await?.status(), Status::Stopped);
    assert_eq!(exec.delete().await?, exit);
    let (gone, message) = code(exec.state().await)?;
    assert_eq!(gone, Code::NotFound, "{message}");
    assert_eq!(task.state().await?.status(), Status::Running);

    bed.destroy(&task).await?;
    events.delete_of("host").await?;
    let all = events.all();
    order::check(&all)?;
    order::exactly_one_exit(&all, [("host", "job"), ("host", "host")])
}

/// An exec can have a terminal of its own.
async fn exec_with_terminal(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("host", "sleep 1000").await?;
    let stdio = bed.fifos("shell", true, false)?;
    let mut exec = task.exec("shell", "tty; read line; stty size", true, stdio).await?;
    exec.start().await?;
    let mut screen = exec.stdio.output.take().context("standard output")?;
    screen.until("/dev/pts/").await?;
    exec.resize(77, 11).await?;
    exec.stdio.input.take().context("standard input")?.write(b"\n").await?;
    screen.until("11 77").await?;
    assert_eq!(exec.wait().await?.status, 0);
    exec.delete().await?;
    bed.destroy(&task).await
}

/// A signal reaches the process that is named.
async fn signals_are_delivered(bed: &mut Bed) -> Result<()> {
    let script = "trap 'echo caught; exit 9' USR1; echo ready; while true; do sleep 0.01; done";
    let mut task = bed.start_container("trap", script).await?;
    task.stdio.output.as_mut().context("output")?.until("ready").await?;
    let mut exec = task.exec("job", "exec sleep 1000", false, Stdio::null()).await?;
    exec.start().await?;
    exec.kill(Signal::SIGTERM).await?;
    assert_eq!(exec.wait().await?.status, 128 + 15);
    exec.delete().await?;
    task.kill(Signal::SIGUSR1).await?;
    assert_eq!(task.wait().await?.status, 9);
    let (ended, message) = code(task.kill(Signal::SIGTERM).await)?;
    assert_eq!(ended, Code::NotFound, "{message}");
    bed.remove(&task).await
}

/// `all` is for every process of the container, not only init.
async fn kill_all_reaches_every_process(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("family", "sleep 1000 & sleep 1000 & wait").await?;
    let mut exec = task.exec("job", "sleep 1000", false, Stdio::null()).await?;
    exec.start().await?;
    tests::eventually(async || {
        let pids = task.pids().await?;
        ensure!(pids.len() >= 4, "{pids:?}");
        Ok(())
    })
    .await?;
    task.kill_all(Signal::SIGKILL).await?;
    assert_eq!(task.wait().await?.status, 137);
    assert_eq!(exec.wait().await?.status, 137);
    bed.remove(&task).await
}

/// A frozen container does nothing, says so, and goes on.
async fn pause_and_resume(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let task = bed.start_container("frozen", "sleep 1000").await?;
    task.pause().await?;
    assert_eq!(task.state().await?.status(), Status::Paused);
    task.resume().await?;
    assert_eq!(task.state().await?.status(), Status::Running);
    for topic in [Topic::Paused, Topic::Resumed] {
        events.wait_for("pause, resume", |event| event.topic == topic).await?;
    }
    bed.destroy(&task).await
}

/// The pids that are listed are those in the container.
async fn pids_are_those_of_the_kernel(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("few", "sleep 1000 & wait").await?;
    tests::eventually(async || {
        let pids = task.pids().await?;
        ensure!(pids.len() == 2 && pids.contains(&task.pid), "{pids:?}, init is {}", task.pid);
        for pid in pids {
            ensure!(proc::is_alive(pid), "{pid} does not live");
        }
        Ok(())
    })
    .await?;
    let answer = bed.api().tasks().list(ListTasksRequest::default()).await?.into_inner();
    let listed: Vec<_> = answer.tasks.iter().map(|t| (t.id.as_str(), t.pid)).collect();
    assert_eq!(listed, [("few", task.pid)]);
    bed.destroy(&task).await
}

/// New limits are what the kernel then enforces.
async fn limits_can_change(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("limited", "sleep 1000").await?;
    task.update(&json!({ "pids": { "limit": 33 }, "memory": { "limit": 64 << 20 } })).await?;
    let cgroups = bed.sandbox.cgroups();
    let values: Vec<_> = cgroups
        .iter()
        .filter_map(|parent| std::fs::read_to_string(parent.join("limited/pids.max")).ok())
        .collect();
    assert_eq!(values, ["33\n"], "in {cgroups:?}");
    bed.destroy(&task).await
}

/// Metrics have the message of the machine's cgroup version and true numbers.
async fn metrics_are_measured(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("busy", "sleep 1000 & sleep 1000 & wait").await?;
    tests::eventually(async || {
        let request = MetricsRequest { filters: vec!["id==busy".into()] };
        let answer = bed.api().tasks().metrics(request).await?.into_inner();
        ensure!(answer.metrics.len() == 1, "{} metrics", answer.metrics.len());
        let metric = &answer.metrics[0];
        ensure!(metric.id == "busy" && metric.timestamp.is_some(), "{metric:?}");
        let data = metric.data.as_ref().context("data")?;
        let (processes, memory) = if data.type_url.ends_with("cgroups.v1.Metrics") {
            let measured: cgroups::v1::Metrics = from_any(data)?;
            let memory = measured.memory.and_then(|memory| memory.usage).context("memory")?;
            (measured.pids.context("pids")?.current, memory.usage)
        } else {
            let measured: cgroups::v2::Metrics = from_any(data)?;
            let memory = measured.memory.context("memory")?;
            (measured.pids.context("pids")?.current, memory.usage)
        };
        ensure!(processes == 3, "{processes} processes");
        ensure!((4096..100 << 20).contains(&memory), "{memory} bytes");
        Ok(())
    })
    .await?;
    bed.destroy(&task).await
}

/// The root filesystem can be a list of mounts, which the shim makes.
async fn rootfs_is_mounted(bed: &mut Bed) -> Result<()> {
    let spec =
        bed.spec("mounted", "ls /bin/busybox; echo no > /file").set("/root/path", json!("rootfs"));
    let container = bed.container("mounted", &spec).await?;
    let stdio = bed.fifos("mounted", false, true)?;
    let mut task = container.task(false, bed.rootfs_mounts(), stdio).await?;
    task.start().await?;
    assert_ne!(task.wait().await?.status, 0);
    assert_eq!(task.stdio.all_output().await?, "/bin/busybox\n");
    let errors = task.stdio.all_errors().await?;
    assert!(errors.contains("Read-only file system"), "{errors}");
    bed.remove(&task).await
}

/// The same with an overlay, as a snapshotter would make it.
async fn overlay_is_mounted(bed: &mut Bed) -> Result<()> {
    let spec = bed.spec("layers", "echo yes > /file; cat /file").set("/root/path", json!("rootfs"));
    let container = bed.container("layers", &spec).await?;
    for folder in ["upper", "work"] {
        std::fs::create_dir(bed.sandbox.path(folder))?;
    }
    let option = |key: &str, folder: &str| format!("{key}={}", bed.sandbox.path(folder).display());
    let mut mounts = bed.rootfs_mounts();
    mounts[0].r#type = "overlay".into();
    mounts[0].source = "overlay".into();
    mounts[0].options =
        vec![option("workdir", "work"), option("upperdir", "upper"), option("lowerdir", "rootfs")];
    let mut task = container.task(false, mounts, bed.fifos("layers", false, true)?).await?;
    task.start().await?;
    assert_eq!(task.wait().await?.status, 0);
    assert_eq!(task.stdio.all_output().await?, "yes\n");
    bed.remove(&task).await?;
    assert_eq!(std::fs::read_to_string(bed.sandbox.path("upper/file"))?, "yes\n");
    assert!(!bed.sandbox.rootfs().join("file").exists());
    Ok(())
}

/// A task whose program never ran can be deleted; there is no exit of it.
async fn created_but_never_started(bed: &mut Bed) -> Result<()> {
    let task = bed.create("unborn", "echo never").await?;
    task.delete().await?;
    bed.remove_record("unborn").await
}

/// What does not fit the state is refused with the code that clients expect.
async fn wrong_order_is_refused(bed: &mut Bed) -> Result<()> {
    let mut task = bed.start_container("order", "sleep 1000").await?;
    let (running, message) = code(task.delete().await)?;
    let expected = match bed.daemon.pairing() {
        // The original shim says "cannot delete a running process" without a
        // class; our daemon looks at the state then.
        Pairing::ORIGINAL => Code::Unknown,
        _ => Code::FailedPrecondition,
    };
    assert_eq!(running, expected, "delete while it runs: {message}");
    let (invalid, message) = code(task.exec("no spaces", "true", false, Stdio::null()).await)?;
    assert_eq!(invalid, Code::InvalidArgument, "bad exec id: {message}");
    task.start().await.expect_err("started twice");
    let record = bed.container("order", &bed.spec("order", "true")).await;
    assert!(record.is_err(), "created twice");

    let ghost = bed.process("order", "ghost");
    let (unknown, message) = code(ghost.delete().await)?;
    assert_eq!(unknown, Code::NotFound, "unknown exec: {message}");
    bed.destroy(&task).await
}

/// A process without any stream runs, and its output goes nowhere.
async fn no_streams(bed: &mut Bed) -> Result<()> {
    let container = bed.container("mute", &bed.spec("mute", "echo into the void")).await?;
    let mut task = container.task(false, Vec::new(), Stdio::null()).await?;
    task.start().await?;
    assert_eq!(task.wait().await?.status, 0);
    bed.remove(&task).await
}
