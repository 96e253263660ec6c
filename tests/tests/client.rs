//! The client library against each pairing: one life of a container, told by
//! its handles alone.

use anyhow::{Context, Result, ensure};
use containerd_api::events::TaskExit;
use containerd_client::{
    Client, ConnectOptions, Container, ErrorKind, Events, Fifos, NewContainer, NewExec, NewTask,
    Runtime, SpecBuilder, Status, Stdio, SubscribeOptions,
};
use nix::sys::signal::Signal;
use tests::{Bed, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

tests::every_pairing!(
    a_life,
    an_exec,
    labels_are_set_one_by_one,
    errors_have_kinds;
    our_daemon:
    handles_outlive_the_daemon,
);

async fn connect(bed: &Bed) -> Result<Client> {
    Ok(ConnectOptions::new(bed.daemon.socket()).timeout(tests::DEADLINE).connect().await?)
}

/// A container of the test's, with the library's own spec.
async fn container(bed: &Bed, id: &str, args: &[&str]) -> Result<Container> {
    let namespace = connect(bed).await?.namespace(bed.namespace());
    let spec = SpecBuilder::new(namespace.name(), id)
        .rootfs(bed.sandbox.rootfs())
        .args(args.iter().copied())
        .cgroup(format!("{}/{id}", bed.sandbox.cgroup()))
        .build()?;
    let new = NewContainer::new(id).runtime(Runtime::new(bed.runtime())).spec(&spec)?;
    Ok(namespace.create_container(new).await?)
}

/// From the record to the exit event.
async fn a_life(bed: &mut Bed) -> Result<()> {
    let container =
        container(bed, "life", &["/bin/sh", "-c", "cat; echo done >&2; exit 5"]).await?;
    let namespace = container.namespace().clone();
    let filter = format!("topic==\"/tasks/exit\",namespace=={}", namespace.name());
    let options = SubscribeOptions::new().filters([filter]);
    let mut events = namespace.client().subscribe(options).await?;

    let fifos = Fifos::create(bed.sandbox.path("fifos"), "life", false)?;
    let streams = fifos.open()?;
    let task = container.create_task(NewTask::new(fifos.stdio().clone())).await?;
    ensure!(task.state().await?.status == Status::Created);
    task.start().await?;
    let mut input = within("open input", streams.stdin.context("stdin")?.open()).await??;
    input.write_all(b"word\n").await?;
    drop(input);
    task.init().close_stdin().await?;
    let exit = within("the exit", task.wait()).await??;
    ensure!(exit.status == 5, "{exit:?}");
    let (mut output, mut errors) = (String::new(), String::new());
    within("output", streams.stdout.context("stdout")?.read_to_string(&mut output)).await??;
    within("errors", streams.stderr.context("stderr")?.read_to_string(&mut errors)).await??;
    assert_eq!((output.as_str(), errors.as_str()), ("word\n", "done\n"));

    let told = next_exit(&mut events).await?;
    assert_eq!((told.container_id.as_str(), told.exit_status), ("life", 5));
    let state = task.state().await?;
    assert_eq!((state.status, state.exit.as_ref()), (Status::Stopped, Some(&exit)));
    assert_eq!(task.delete().await?, exit);
    container.delete().await?;
    Ok(())
}

/// Setting none changes none.
async fn labels_are_set_one_by_one(bed: &mut Bed) -> Result<()> {
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let mut container = container(bed, "labelled", &["/bin/true"]).await?;
    let namespaces = container.namespace().client().namespaces();
    for pairs in [&[("a", "1"), ("b", "2")][..], &[], &[("a", "")]] {
        container.set_labels(labels(pairs)).await?;
        namespaces.set_labels(bed.namespace(), labels(pairs)).await?;
    }
    let left = labels(&[("b", "2")]);
    assert_eq!(container.record().labels, left);
    assert_eq!(namespaces.get(bed.namespace()).await?.labels, left);
    container.delete().await?;
    Ok(())
}

/// What is done to a task that runs.
async fn an_exec(bed: &mut Bed) -> Result<()> {
    let container = container(bed, "host", &["/bin/sleep", "1000"]).await?;
    let task = container.create_task(NewTask::new(Stdio::null())).await?;
    task.start().await?;
    let mut process = container.spec()?.process().clone().context("process")?;
    process.set_args(Some(["/bin/sh", "-c", "exit 6"].map(str::to_owned).to_vec()));
    let exec = task.exec(NewExec::new("job", &process, Stdio::null())?).await?;
    exec.start().await?;
    assert_eq!(within("exit of the exec", exec.wait()).await??.status, 6);
    exec.delete().await?;

    task.pause().await?;
    assert_eq!(task.state().await?.status, Status::Paused);
    task.resume().await?;
    eventually(async || {
        let pids: Vec<_> = task.pids().await?.into_iter().map(|info| info.pid).collect();
        ensure!(pids == [task.pid()], "{pids:?}");
        Ok(())
    })
    .await?;
    task.metrics().await?.usage()?;
    let listed = container.namespace().tasks().await?;
    assert_eq!(listed.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["host"]);
    task.kill(Signal::SIGKILL as u32).await?;
    assert_eq!(within("the exit", task.wait()).await??.status, 137);
    task.delete().await?;
    container.delete().await?;
    Ok(())
}

/// Callers match on kinds, whichever daemon they talk to.
async fn errors_have_kinds(bed: &mut Bed) -> Result<()> {
    let container = container(bed, "one", &["/bin/true"]).await?;
    let namespace = container.namespace();
    let spec = container.spec()?;
    let again = namespace.create_container(NewContainer::new("one").spec(&spec)?).await;
    assert_eq!(kind(again)?, ErrorKind::AlreadyExists);
    let bad = namespace.create_container(NewContainer::new("a b").spec(&spec)?).await;
    assert_eq!(kind(bad)?, ErrorKind::InvalidArgument);
    assert_eq!(kind(namespace.container("ghost").await)?, ErrorKind::NotFound);
    assert_eq!(kind(container.task().await)?, ErrorKind::NotFound);
    container.delete().await?;

    let client = connect(bed).await?;
    bed.daemon.kill().await?;
    assert_eq!(kind(client.version().await)?, ErrorKind::Unavailable);
    assert_eq!(kind(Client::connect(bed.daemon.socket()).await)?, ErrorKind::Unavailable);
    bed.daemon.start(&bed.sandbox).await?;
    // The connection is another one, the handle the same.
    client.version().await?;
    Ok(())
}

fn kind<T>(result: containerd_client::Result<T>) -> Result<ErrorKind> {
    match result {
        Ok(_) => anyhow::bail!("the call succeeded and should not have"),
        Err(error) => Ok(error.kind()),
    }
}

/// One that waits and one that listens do not notice that the daemon is
/// another one.
async fn handles_outlive_the_daemon(bed: &mut Bed) -> Result<()> {
    let container = container(bed, "steady", &["/bin/sleep", "1000"]).await?;
    let filters = [r#"topic=="/tasks/start""#, r#"topic=="/tasks/exit""#];
    let options = SubscribeOptions::new().filters(filters).reconnect();
    let mut events = container.namespace().client().subscribe(options).await?;
    let task = container.create_task(NewTask::new(Stdio::null())).await?;
    task.start().await?;
    let start = within("start event", events.next()).await??.context("start")?;
    assert_eq!(start.topic, "/tasks/start");

    let waiting = task.init().clone();
    let waiting = tokio::spawn(async move { waiting.wait_through_restarts().await });
    bed.daemon.kill().await?;
    tests::proc::signal(task.pid(), Signal::SIGKILL);
    bed.daemon.start(&bed.sandbox).await?;
    assert_eq!(within("the exit", waiting).await???.status, 137);
    assert_eq!(next_exit(&mut events).await?.exit_status, 137);
    task.delete().await?;
    container.delete().await?;
    Ok(())
}

async fn next_exit(events: &mut Events) -> Result<TaskExit> {
    let envelope = within("exit event", events.next()).await??.context("the stream ended")?;
    Ok(envelope.decode()?)
}
