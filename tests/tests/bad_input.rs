//! Requests and files that are wrong: the right code, a message that names the
//! thing, and nothing left behind.

use std::fs;

use anyhow::{Context, Result, ensure};
use containerd_api::services::{
    containers::v1::{Container as Record, CreateContainerRequest, ListContainersRequest},
    namespaces::v1::{CreateNamespaceRequest, Namespace},
    tasks::v1::{CreateTaskRequest, ListTasksRequest},
};
use prost_types::Any;
use serde_json::json;
use tests::{Bed, Origin, Pairing, Status, Stdio, code, leaks};
use tonic::Code;

tests::every_pairing!(
    invalid_ids,
    missing_namespace,
    things_that_do_not_exist,
    unknown_runtime,
    unusable_specs,
    program_that_does_not_exist,
    damaged_config_of_a_running_task,
    shim_that_prints_nonsense,
    shim_that_fails_to_start;
    our_daemon:
    shim_that_hangs_on_start,
    shim_that_nobody_can_reach,
    folders_of_garbage,
    full_state_folder,
);

/// Identifiers become file names, so they are checked wherever they come in.
async fn invalid_ids(bed: &mut Bed) -> Result<()> {
    let long = "x".repeat(77);
    for id in ["", "a/b", "..", "-a", "a b", "ä", &long] {
        let record = Record {
            id: id.into(),
            runtime: Some(bed.spec("x", "true").runtime),
            spec: Some(bed.spec("x", "true").to_any()),
            ..Record::default()
        };
        let request = CreateContainerRequest { container: Some(record) };
        let (kind, message) = code(bed.api().containers().create(request).await)?;
        assert_eq!(kind, Code::InvalidArgument, "container {id:?}: {message}");

        if !id.is_empty() {
            let namespace = Namespace { name: id.into(), ..Namespace::default() };
            let request = CreateNamespaceRequest { namespace: Some(namespace) };
            let (kind, message) = code(bed.api().namespaces().create(request).await)?;
            assert_eq!(kind, Code::InvalidArgument, "namespace {id:?}: {message}");
        }
    }
    let task = bed.start_container("host", "sleep 1000").await?;
    for id in ["a/b", "..", &long] {
        let (kind, message) = code(task.exec(id, "true", false, Stdio::null()).await)?;
        assert_eq!(kind, Code::InvalidArgument, "exec {id:?}: {message}");
        assert!(message.contains(&id[..2]), "{message:?} does not name {id:?}");
    }
    bed.destroy(&task).await
}

/// A request without the header is answered as containerd's clients know it.
async fn missing_namespace(bed: &mut Bed) -> Result<()> {
    let api = bed.api().without_namespace();
    let containers = code(api.containers().list(ListContainersRequest::default()).await)?;
    let tasks = code(api.tasks().list(ListTasksRequest::default()).await)?;
    for (kind, message) in [containers, tasks] {
        assert_eq!(kind, Code::FailedPrecondition, "{message}");
        assert!(message.contains("namespace is required"), "{message}");
    }
    Ok(())
}

/// What is not there is NotFound, by name.
async fn things_that_do_not_exist(bed: &mut Bed) -> Result<()> {
    let ghost = bed.process("ghost", "");
    let request =
        CreateTaskRequest { container_id: "ghost".into(), ..CreateTaskRequest::default() };
    let answers = [
        code(ghost.state().await)?,
        code(ghost.delete().await)?,
        code(ghost.kill(nix::sys::signal::Signal::SIGTERM).await)?,
        code(ghost.pause().await)?,
        code(ghost.pids().await)?,
        code(ghost.close_stdin().await)?,
        code(bed.api().tasks().create(request).await)?,
        code(ghost.exec("job", "true", false, Stdio::null()).await)?,
    ];
    for (number, (kind, message)) in answers.into_iter().enumerate() {
        assert_eq!(kind, Code::NotFound, "call {number}: {message}");
        assert!(message.contains("ghost"), "call {number}: {message}");
    }
    Ok(())
}

/// A runtime that is not installed.
async fn unknown_runtime(bed: &mut Bed) -> Result<()> {
    for name in ["io.containerd.nowhere.v1", "/nowhere/containerd-shim-runc-v2"] {
        let (kind, message) = refused(bed, name).await?;
        assert!(message.contains("nowhere"), "{message}");
        if bed.daemon.pairing().daemon == Origin::Ours {
            assert_eq!(kind, Code::FailedPrecondition, "{message}");
        }
        // The original answers Unknown or InvalidArgument, by the way it fails.
    }
    Ok(())
}

/// Specs that no container can be made of. What the original daemon and runc
/// call them varies; ours has to say that it is the argument.
async fn unusable_specs(bed: &mut Bed) -> Result<()> {
    let whole = bed.spec("spec", "true");
    let mut values = vec![&b"{}"[..]];
    if bed.daemon.pairing().daemon == Origin::Ours {
        // The original daemon leaves the bundle behind when it cannot parse.
        values.extend([&b"{ \"ociVersion\": "[..], b"", b"\xff\xfe\x00", b"[]"]);
    }
    let broken: Vec<_> =
        values.into_iter().map(|value| Any { value: value.to_vec(), ..whole.to_any() }).collect();
    for (number, spec) in broken.into_iter().enumerate() {
        let id = format!("spec-{number}");
        let record = Record {
            id: id.clone(),
            runtime: Some(whole.runtime.clone()),
            spec: Some(spec),
            ..Record::default()
        };
        let request = CreateContainerRequest { container: Some(record) };
        bed.api().containers().create(request).await?;
        let request =
            CreateTaskRequest { container_id: id.clone(), ..CreateTaskRequest::default() };
        let (kind, message) = code(bed.api().tasks().create(request).await)?;
        assert!(!message.is_empty());
        // The first is well-formed; it is runc that refuses it, without a class.
        if number > 0 && bed.daemon.pairing() == Pairing::OURS {
            assert_eq!(kind, Code::InvalidArgument, "spec {number}: {message}");
        }
        bed.remove_record(&id).await?;
        leaks::check(&bed.sandbox, &bed.daemon).await?;
    }
    Ok(())
}

/// The spec is fine, but there is nothing to run.
async fn program_that_does_not_exist(bed: &mut Bed) -> Result<()> {
    let spec = bed.spec("void", "").args(&["/bin/nothing-here"]);
    let container = bed.container("void", &spec).await?;
    // runc finds out at create, others at start.
    let message = match container.task(false, bed.rootfs_mounts(), Stdio::null()).await {
        Err(status) => status.message().to_owned(),
        Ok(mut task) => {
            let (_, message) = code(task.start().await)?;
            task.delete().await?;
            message
        }
    };
    assert!(message.contains("nothing-here"), "{message}");
    leaks::check(&bed.sandbox, &bed.daemon).await?;
    bed.remove_record("void").await?;

    let task = bed.start_container("host", "sleep 1000").await?;
    let mut exec = task.exec_args("job", &["/bin/nothing-either"], Stdio::null()).await?;
    let (_, message) = code(exec.start().await)?;
    assert!(message.contains("nothing-either"), "{message}");
    assert_eq!(task.state().await?.status(), Status::Running);
    bed.destroy(&task).await
}

/// `config.json` of a running task is overwritten; the container goes on, and
/// can be stopped and deleted, also by a daemon that finds it at boot.
async fn damaged_config_of_a_running_task(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("damaged", "sleep 1000").await?;
    let config = bed.daemon.bundles(bed.namespace()).join("damaged/config.json");
    ensure!(config.exists(), "no {}", config.display());
    fs::write(&config, b"\0\0not json")?;
    bed.crash().await?;
    let state = task.state().await?;
    assert_eq!((state.status(), state.pid), (Status::Running, task.pid));
    bed.destroy(&task).await
}

/// A program that is no shim.
async fn shim_that_prints_nonsense(bed: &mut Bed) -> Result<()> {
    for (number, words) in
        ["hello, I am not a shim", "{\"version\": 99}", "{", "", "unix:///nowhere/s.sock"]
            .into_iter()
            .enumerate()
    {
        let shim = odd_shim(bed, &format!("start) echo '{words}' ;;"))?;
        let (kind, message) = refused(bed, &shim).await?;
        ensure!(kind != Code::Ok && !message.is_empty(), "{number}: {message}");
    }
    Ok(())
}

/// A shim that says why it cannot start is quoted.
async fn shim_that_fails_to_start(bed: &mut Bed) -> Result<()> {
    let shim = odd_shim(bed, "start) echo 'the moon is wrong' >&2; exit 1 ;;")?;
    let (_, message) = refused(bed, &shim).await?;
    assert!(message.contains("the moon is wrong"), "{message}");
    Ok(())
}

/// A shim that never answers is given up. (The original daemon waits for ever.)
async fn shim_that_hangs_on_start(bed: &mut Bed) -> Result<()> {
    bed.daemon.stop().await?;
    let config = fs::read_to_string(bed.daemon.config())?;
    // Long enough for a shim that does not hang, also on a busy machine.
    let limit = "[timeouts]\n'io.containerd.timeout.shim.start' = '5s'\n";
    fs::write(bed.daemon.config(), config + limit)?;
    bed.daemon.start(&bed.sandbox).await?;
    let shim = odd_shim(bed, "start) exec sleep 1000 ;;")?;
    let (kind, message) = refused(bed, &shim).await?;
    assert_eq!(kind, Code::DeadlineExceeded, "{message}");
    assert!(message.contains("odd"), "{message}");
    // The daemon serves others meanwhile and afterwards.
    let task = bed.start_container("fine", "sleep 1000").await?;
    bed.destroy(&task).await
}

/// An address that nobody listens on.
async fn shim_that_nobody_can_reach(bed: &mut Bed) -> Result<()> {
    let shim = odd_shim(bed, "start) echo unix:///run/containerd/s/nobody ;;")?;
    let (kind, message) = refused(bed, &shim).await?;
    assert_eq!(kind, Code::Unavailable, "{message}");
    Ok(())
}

/// What is in the folder of bundles and is none: the daemon starts, the real
/// tasks are there, and nothing outside is touched.
async fn folders_of_garbage(bed: &mut Bed) -> Result<()> {
    let task = bed.start_container("real", "sleep 1000").await?;
    let treasure = bed.sandbox.path("treasure");
    fs::create_dir(&treasure)?;
    fs::write(treasure.join("file"), "gold")?;

    bed.daemon.kill().await?;
    let bundles = bed.daemon.bundles(bed.namespace());
    fs::create_dir(bundles.join("empty"))?;
    fs::create_dir(bundles.join("garbage"))?;
    fs::write(bundles.join("garbage/config.json"), b"\0\0\0")?;
    fs::write(bundles.join("garbage/bootstrap.json"), b"{{{{")?;
    fs::write(bundles.join("garbage/address"), b"unix:///nowhere")?;
    fs::create_dir(bundles.join("garbage/rootfs"))?;
    std::os::unix::fs::symlink(&treasure, bundles.join("garbage/link"))?;
    std::os::unix::fs::symlink(&treasure, bundles.join("linked"))?;
    fs::write(bundles.join("file"), "no folder")?;
    fs::create_dir(bundles.join("not an id"))?;
    fs::create_dir(bundles.with_file_name("no namespace!"))?;
    bed.daemon.start(&bed.sandbox).await?;

    assert_eq!(task.state().await?.status(), Status::Running);
    assert_eq!(fs::read_to_string(treasure.join("file"))?, "gold");
    for name in ["empty", "garbage"] {
        ensure!(!bundles.join(name).exists(), "{name} is still there");
    }
    // The ids are free again.
    let again = bed.start_container("garbage", "sleep 1000").await?;
    bed.destroy(&again).await?;
    bed.destroy(&task).await?;
    // What cannot be a bundle is left alone, and reported.
    let log = bed.daemon.log();
    for name in ["linked", "file", "not an id"] {
        assert!(log.contains(name), "the log does not mention {name:?}");
        let path = bundles.join(name);
        match fs::symlink_metadata(&path).map(|meta| meta.is_dir()) {
            Ok(true) => fs::remove_dir(path)?,
            Ok(false) => fs::remove_file(path)?,
            Err(_) => {}
        }
    }
    let _ = fs::remove_dir(bundles.with_file_name("no namespace!"));
    Ok(())
}

/// No room for another bundle: the error says so, the half-made one is gone,
/// and what fits works.
async fn full_state_folder(bed: &mut Bed) -> Result<()> {
    const SIZE: usize = 1 << 20;
    bed.daemon.stop().await?;
    let state = bed.daemon.state().to_owned();
    fs::create_dir_all(&state)?;
    bed.sandbox.mount_tmpfs(&state, SIZE)?;
    bed.daemon.start(&bed.sandbox).await?;

    let large = bed.spec("large", "true").set("/annotations/ballast", json!("x".repeat(SIZE)));
    let container = bed.container("large", &large).await?;
    let (kind, message) = code(container.task(false, Vec::new(), Stdio::null()).await)?;
    assert_eq!(kind, Code::ResourceExhausted, "{message}");
    assert!(message.contains("large"), "{message}");
    container.delete().await?;

    let task = bed.start_container("small", "sleep 1000").await?;
    bed.destroy(&task).await
}

/// Creates a container with runtime `name`, whose task must be refused without
/// leaving anything behind.
async fn refused(bed: &Bed, name: &str) -> Result<(Code, String)> {
    let container = bed.container("refused", &bed.spec("refused", "true").runtime(name)).await?;
    let request =
        CreateTaskRequest { container_id: container.id().into(), ..CreateTaskRequest::default() };
    let answer = tests::within("refusal", bed.api().tasks().create(request)).await?;
    let refusal = code(answer)?;
    container.delete().await?;
    leaks::check(&bed.sandbox, &bed.daemon).await?;
    Ok(refusal)
}

/// A shell script in place of a shim: `case` arms for its actions, of which
/// `delete` succeeds unless it is among them.
fn odd_shim(bed: &Bed, arms: &str) -> Result<String> {
    let script =
        format!("#!/bin/sh\nfor last; do :; done\ncase $last in\n{arms}\ndelete) ;;\nesac\n");
    let path = bed.sandbox.executable("containerd-shim-odd-v1", &script)?;
    path.to_str().map(str::to_owned).context("path")
}
