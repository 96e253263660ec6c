//! What makes no sense, and what fails, leaves nothing.

use std::fs;

use anyhow::{Result, ensure};
use containerd_api::legacy::{
    AddProcessRequest, Checkpoint, CreateCheckpointRequest, CreateContainerRequest,
    DeleteCheckpointRequest, ListCheckpointRequest, StatsRequest,
};
use serde_json::json;
use tests::{Bed, code, legacy::text};
use tonic::Code;

use crate::calls::{SIGTERM, end, shell, signal, start, update};

/// Checkpoints are folders of the bundle, whoever made them.
pub(crate) async fn checkpoints_are_listed_and_removed(bed: &mut Bed) -> Result<()> {
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
pub(crate) async fn nonsense_is_refused(bed: &mut Bed) -> Result<()> {
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
pub(crate) async fn failed_starts_leave_nothing(bed: &mut Bed) -> Result<()> {
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
