//! What a shim does besides running one process: groups, memory events,
//! logging URIs, runtime options.

use std::fs;

use anyhow::{Context, Result, ensure};
use containerd_api::{runc::v1::Options, to_any};
use nix::sys::signal::Signal;
use tests::{Bed, Origin, Status, Stdio, Topic, code, eventually};
use tonic::Code;

tests::every_pairing!(
    group_shares_a_shim,
    memory_events,
    output_to_a_file,
    output_to_a_program,
    options_reach_the_runtime,
    unknown_runtime_binary,
);

/// Annotation by which containers ask to be held by one shim.
const GROUP: &str = "io.containerd.runc.v2.group";

/// One shim for two containers; it stays until the last one is gone.
async fn group_shares_a_shim(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let mut tasks = Vec::new();
    for id in ["first", "second", "third"] {
        let spec = bed.spec(id, "sleep 1000").annotation(GROUP, "together");
        let mut task = bed.create_from(id, &spec).await?;
        task.start().await?;
        tasks.push(task);
    }
    ensure!(bed.sandbox.shims().len() == 1, "{} shims", bed.sandbox.shims().len());
    let single = bed.start_container("alone", "sleep 1000").await?;
    ensure!(bed.sandbox.shims().len() == 2, "{} shims", bed.sandbox.shims().len());

    // The first one gave its name to the shim; its end is not that of the shim.
    bed.destroy(&tasks[0]).await?;
    events.delete_of("first").await?;
    for task in &tasks[1..] {
        assert_eq!(task.state().await?.status(), Status::Running);
        let mut exec = task.exec("job", "exit 4", false, Stdio::null()).await?;
        exec.start().await?;
        assert_eq!(exec.wait().await?.status, 4);
    }
    bed.crash().await?;
    for task in &tasks[1..] {
        let state = task.state().await?;
        assert_eq!((state.status(), state.pid), (Status::Running, task.pid));
        bed.destroy(task).await?;
    }
    eventually(async || {
        ensure!(bed.sandbox.shims().len() == 1, "{} shims", bed.sandbox.shims().len());
        Ok(())
    })
    .await?;
    bed.destroy(&single).await
}

/// The kernel kills for want of memory: there is an event, and the exit.
async fn memory_events(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    let spec = bed.spec("hungry", "exec sleep 1000").memory_limit(16 << 20);
    let mut task = bed.create_from("hungry", &spec).await?;
    task.start().await?;
    // Not in init, which needs no memory meanwhile and so is not what the kernel
    // kills. The original shim looks out for such ends from the start on.
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let mut hog = task.exec("hog", script, false, Stdio::null()).await?;
    hog.start().await?;
    events
        .wait_for("oom", |event| event.topic == Topic::Oom && event.container == "hungry")
        .await?;
    hog.wait().await?;
    hog.delete().await?;
    bed.destroy(&task).await
}

/// `file://`: both streams are appended to the file.
async fn output_to_a_file(bed: &mut Bed) -> Result<()> {
    let log = bed.sandbox.path("logs/container.log");
    fs::create_dir(bed.sandbox.path("logs"))?;
    fs::write(&log, "before\n")?;
    let spec = bed.spec("writer", "echo out; echo err >&2; exit 2");
    let container = bed.container("writer", &spec).await?;
    let uri = format!("file://{}", log.display());
    let mut task = container.task(false, Vec::new(), Stdio::uri(&uri)).await?;
    task.start().await?;
    assert_eq!(task.wait().await?.status, 2);
    bed.remove(&task).await?;
    let text = fs::read_to_string(&log)?;
    let mut lines: Vec<_> = text.lines().collect();
    // Two streams into one file: their order is not promised.
    lines[1..].sort_unstable();
    if bed.daemon.pairing().shim == Origin::Debian {
        // It closes the file as soon as the first of the two streams has ended, and
        // loses what comes on the other one.
        ensure!(lines.len() > 1, "{text:?}");
        lines.retain(|line| !["err", "out"].contains(line));
        assert_eq!(lines, ["before"]);
        return Ok(());
    }
    assert_eq!(lines, ["before", "err", "out"]);
    Ok(())
}

/// `binary://`: a program gets both streams, and knows whose they are.
async fn output_to_a_program(bed: &mut Bed) -> Result<()> {
    let folder = bed.sandbox.path("logged");
    fs::create_dir(&folder)?;
    // Descriptors 3 and 4 are the streams; closing 5 says that it is ready.
    // The original shim sends it SIGTERM as soon as the container is deleted.
    let script = "#!/bin/sh\n\
        trap '' TERM\n\
        exec 5>&-\n\
        echo \"$CONTAINER_NAMESPACE $CONTAINER_ID $*\" >$2/who\n\
        cat <&4 >$2/err &\n\
        cat <&3 >$2/out\n\
        wait\n\
        echo done >$2/done\n";
    let logger = bed.sandbox.executable("logger", script)?;
    let spec = bed.spec("logged", "seq 1 20000; echo err >&2");
    let container = bed.container("logged", &spec).await?;
    let uri = format!("binary://{}?folder={}", logger.display(), folder.display());
    let mut task = container.task(false, Vec::new(), Stdio::uri(&uri)).await?;
    task.start().await?;
    assert_eq!(task.wait().await?.status, 0);
    bed.remove(&task).await?;
    eventually(async || fs::read(folder.join("done")).context("the logger has not ended")).await?;
    let who = fs::read_to_string(folder.join("who"))?;
    assert_eq!(who, format!("{} logged folder {}\n", bed.namespace(), folder.display()));
    assert_eq!(fs::read_to_string(folder.join("out"))?.lines().count(), 20000);
    assert_eq!(fs::read_to_string(folder.join("err"))?, "err\n");
    Ok(())
}

/// The runtime named in the options is the one that is called, with the root
/// that is named there.
async fn options_reach_the_runtime(bed: &mut Bed) -> Result<()> {
    let calls = bed.sandbox.path("calls");
    let root = bed.sandbox.path("own-root");
    let script = format!("#!/bin/sh\necho \"$@\" >>{}\nexec runc \"$@\"\n", calls.display());
    let runtime = bed.sandbox.executable("own-runc", &script)?;
    let options = Options {
        binary_name: runtime.display().to_string(),
        root: root.display().to_string(),
        no_new_keyring: true,
        ..Options::default()
    };
    let spec = bed.spec("special", "sleep 1000").options(to_any(&options));
    let mut task = bed.create_from("special", &spec).await?;
    task.start().await?;
    ensure!(root.join(bed.namespace()).join("special").exists(), "no state in the root");
    task.kill(Signal::SIGKILL).await?;
    task.wait().await?;
    bed.remove(&task).await?;
    let calls = fs::read_to_string(calls)?;
    for verb in ["create", "start", "delete"] {
        ensure!(calls.lines().any(|line| line.contains(verb)), "no {verb} in {calls}");
    }
    let create = calls.lines().find(|line| line.contains("create")).context("create")?;
    ensure!(create.contains("--no-new-keyring"), "{create}");
    let left = fs::read_dir(root.join(bed.namespace()))?.count();
    ensure!(left == 0, "{left} containers left in the runtime's root");
    Ok(())
}

/// A runtime binary that is not there.
async fn unknown_runtime_binary(bed: &mut Bed) -> Result<()> {
    let options = Options { binary_name: "no-such-runc".into(), ..Options::default() };
    let spec = bed.spec("lost", "true").options(to_any(&options));
    let container = bed.container("lost", &spec).await?;
    let (kind, message) = code(container.task(false, Vec::new(), Stdio::null()).await)?;
    ensure!(message.contains("no-such-runc"), "{kind:?} {message}");
    ensure!(kind != Code::Ok);
    Ok(container.delete().await?)
}
