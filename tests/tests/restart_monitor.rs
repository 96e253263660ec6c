//! Containers that the daemon keeps running, by their labels.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use containerd_api::{
    services::containers::v1::{Container as Record, GetContainerRequest, UpdateContainerRequest},
    v1::types::Process,
};
use nix::sys::signal::Signal;
use prost_types::FieldMask;
use tests::{Bed, Container, Status, Stdio, eventually, proc};

tests::every_pairing!(
    container_is_started_again,
    stopped_status_is_honoured;
    our_daemon:
    retries_are_limited,
    runs_again_after_the_daemon,
    output_goes_to_the_log_uri,
);

const STATUS: &str = "containerd.io/restart.status";
const POLICY: &str = "containerd.io/restart.policy";
const LOG: &str = "containerd.io/restart.loguri";
const COUNT: &str = "containerd.io/restart.count";

/// A container that ends is started again, as often as it takes.
async fn container_is_started_again(bed: &mut Bed) -> Result<()> {
    keep_running(bed, "steady", "sleep 1000", &[]).await?;
    let first = running(bed, "steady", 0).await?;
    proc::signal(first.pid, Signal::SIGKILL);
    let second = running(bed, "steady", first.pid).await?;
    let task = bed.process("steady", "");
    task.kill(Signal::SIGKILL).await?;
    running(bed, "steady", second.pid).await?;
    stop(bed, "steady").await
}

/// With the status `stopped` the monitor ends the task, and leaves it so.
async fn stopped_status_is_honoured(bed: &mut Bed) -> Result<()> {
    keep_running(bed, "steady", "sleep 1000", &[]).await?;
    let first = running(bed, "steady", 0).await?;
    label(bed, "steady", STATUS, "stopped").await?;
    eventually(async || {
        ensure!(!proc::is_alive(first.pid), "the container still runs");
        Ok(())
    })
    .await?;
    stop(bed, "steady").await
}

/// `on-failure:N`: so many times, and a success is no reason at all.
async fn retries_are_limited(bed: &mut Bed) -> Result<()> {
    let events = bed.events().await?;
    // What never ran has not failed: the first run is the client's.
    for (id, script) in [("failing", "exit 3"), ("fine", "exit 0")] {
        let container = keep_running(bed, id, script, &[(POLICY, "on-failure:2")]).await?;
        container.task(false, Vec::new(), Stdio::null()).await?.start().await?;
    }
    eventually(async || {
        let request = GetContainerRequest { id: "failing".into() };
        let answer = bed.api().containers().get(request).await?.into_inner();
        let labels = answer.container.context("container")?.labels;
        ensure!(labels.get(COUNT).is_some_and(|count| count == "2"), "{labels:?}");
        let exits = events
            .all()
            .iter()
            .filter(|e| e.topic == tests::Topic::Exit && e.container == "failing")
            .count();
        ensure!(exits == 3, "{exits} exits");
        Ok(())
    })
    .await?;
    events.sync().await?;
    let exits = |id: &str| {
        let all = events.all();
        all.iter().filter(|e| e.topic == tests::Topic::Exit && e.container == id).count()
    };
    assert_eq!(exits("failing"), 3);
    assert_eq!(exits("fine"), 1);
    stop(bed, "failing").await?;
    stop(bed, "fine").await
}

/// What ended while the daemon was away is started when it is back.
async fn runs_again_after_the_daemon(bed: &mut Bed) -> Result<()> {
    keep_running(bed, "steady", "sleep 1000", &[]).await?;
    keep_running(bed, "other", "sleep 1000", &[]).await?;
    let first = running(bed, "steady", 0).await?;
    let other = running(bed, "other", 0).await?;
    bed.daemon.kill().await?;
    proc::signal(first.pid, Signal::SIGKILL);
    bed.daemon.start(&bed.sandbox).await?;
    running(bed, "steady", first.pid).await?;
    let still = bed.process("other", "").state().await?;
    assert_eq!((still.status(), still.pid), (Status::Running, other.pid));
    stop(bed, "steady").await?;
    stop(bed, "other").await
}

/// A restarted task has no client, so its output goes where the label says.
async fn output_goes_to_the_log_uri(bed: &mut Bed) -> Result<()> {
    let log = bed.sandbox.path("log");
    let uri = format!("file://{}", log.display());
    keep_running(bed, "talker", "echo said; sleep 1000", &[(LOG, &uri)]).await?;
    eventually(async || {
        let text = std::fs::read_to_string(&log)?;
        ensure!(text == "said\n", "{text:?}");
        Ok(())
    })
    .await?;
    stop(bed, "talker").await
}

/// A container without a task, which the monitor is to run.
async fn keep_running(
    bed: &Bed,
    id: &str,
    script: &str,
    more: &[(&str, &str)],
) -> Result<Container> {
    let mut labels = BTreeMap::from([(STATUS.to_owned(), "running".to_owned())]);
    labels.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Container::create(bed.api(), id, &bed.spec(id, script), labels).await
}

/// Waits until a task runs whose pid is not `old`.
async fn running(bed: &Bed, id: &str, old: u32) -> Result<Process> {
    let task = bed.process(id, "");
    eventually(async || {
        let state = task.state().await?;
        ensure!(state.status() == Status::Running && state.pid != old, "{state:?}, was {old}");
        Ok(state)
    })
    .await
}

async fn label(bed: &Bed, id: &str, key: &str, value: &str) -> Result<()> {
    let record = Record {
        id: id.into(),
        labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..Record::default()
    };
    let request = UpdateContainerRequest {
        container: Some(record),
        update_mask: Some(FieldMask { paths: vec![format!("labels.{key}")] }),
    };
    bed.api().containers().update(request).await?;
    Ok(())
}

/// Takes the container out of the monitor's hands, and removes it.
async fn stop(bed: &Bed, id: &str) -> Result<()> {
    label(bed, id, STATUS, "").await?;
    let task = bed.process(id, "");
    eventually(async || {
        // The monitor may be in the middle of something.
        match task.state().await {
            Ok(state) if state.status() != Status::Stopped => {
                task.kill(Signal::SIGKILL).await?;
                task.wait().await?;
                task.delete().await?;
            }
            Ok(_) => {
                task.delete().await?;
            }
            Err(status) => ensure!(status.code() == tonic::Code::NotFound, "{status}"),
        }
        bed.remove_record(id).await
    })
    .await
}
