//! Real containers, made by the runtimes that are installed.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use shim_protocol::{ErrorKind, Id};

use super::{
    ChildStdio, Create, Exec, Runtime, Status,
    binary::{BinaryRuntime, Config, INIT_PID_FILE},
    embedded,
};
use crate::{
    reaper::Reaper,
    testing::{Bundle, id, process, program, run},
};

const SIGKILL: u32 = 9;

fn runtime(binary: &Path, bundle: &Path, reaper: &Arc<Reaper>) -> BinaryRuntime {
    let config = Config {
        binary: binary.into(),
        root: bundle.join("state"),
        work: bundle.into(),
        systemd_cgroup: false,
    };
    BinaryRuntime::new(config, Arc::clone(reaper))
}

fn create(bundle: &Bundle, stdio: ChildStdio) -> Create<'_> {
    Create { bundle: bundle.path(), stdio, no_pivot_root: false, no_new_keyring: false }
}

/// Both ends of a pipe whose writing end is for a child.
fn output() -> (File, ChildStdio) {
    let (ours, theirs): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let stdio = ChildStdio::Fds { stdin: None, stdout: Some(theirs), stderr: None };
    (File::from(ours), stdio)
}

fn read_all(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Runs `test` with each runtime that works on this machine.
fn with_each_runtime(name: &str, args: &[&str], test: impl AsyncFn(&dyn Runtime, &Bundle)) {
    for binary in ["runc", "crun"] {
        let Some(path) = program(name, binary) else { continue };
        let Some(bundle) = Bundle::new(&format!("{name}-{binary}"), args, false) else { continue };
        run(async |reaper| {
            let runtime = runtime(&path, bundle.path(), &reaper);
            if binary == "crun" && !works(&path, &reaper).await {
                eprintln!("{name}: skipped with crun, which refuses this machine");
                return;
            }
            test(&runtime, &bundle).await;
            runtime.delete(&bundle.id, true).await.unwrap();
            assert_eq!(leftovers(bundle.path()), Vec::<PathBuf>::new());
        });
    }
    // Ours, from inside and as a command line.
    for called in [false, true] {
        let Some(bundle) = Bundle::new(&format!("{name}-embedded"), args, false) else { return };
        run(async |reaper| {
            let runtime: Box<dyn Runtime> = match called {
                false => Box::new(embedded::testing::runtime(bundle.path(), &reaper)),
                true => {
                    let program = embedded::testing::command_line(bundle.path());
                    Box::new(runtime(&program, bundle.path(), &reaper))
                }
            };
            test(&*runtime, &bundle).await;
            runtime.delete(&bundle.id, true).await.unwrap();
            assert_eq!(leftovers(bundle.path()), Vec::<PathBuf>::new());
        });
    }
}

/// crun refuses machines whose cgroup v1 tree lacks a controller.
async fn works(binary: &Path, reaper: &Arc<Reaper>) -> bool {
    let Some(bundle) = Bundle::new("works", &["true"], false) else { return false };
    let runtime = runtime(binary, bundle.path(), reaper);
    let made = runtime.create(&bundle.id, create(&bundle, ChildStdio::NULL)).await;
    runtime.delete(&bundle.id, true).await.unwrap();
    made.is_ok()
}

/// Temporary files that a call has forgotten.
fn leftovers(work: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(work).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
}

#[test]
fn what_was_never_made_is_removed_without_a_runtime() {
    run(async |reaper| {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime(Path::new("/no/such/runtime"), dir.path(), &reaper);
        let id = id("never-made");
        runtime.delete(&id, true).await.unwrap();
        let error = runtime.delete(&id, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        // One that is there must not be forgotten.
        std::fs::create_dir_all(dir.path().join("state").join(&id)).unwrap();
        let error = runtime.delete(&id, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    });
}

#[test]
fn a_container_lives_and_dies() {
    with_each_runtime("lives", &["sh", "-c", "echo hello; exit 3"], async |runtime, bundle| {
        let (output, stdio) = output();
        let started = runtime.create(&bundle.id, create(bundle, stdio)).await.unwrap();
        let written = std::fs::read_to_string(bundle.path().join(INIT_PID_FILE)).unwrap();
        assert_eq!(written, started.pid.to_string());
        let state = runtime.state(&bundle.id).await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Created, started.pid));

        runtime.start(&bundle.id).await.unwrap();
        assert_eq!(started.exit.await.status, 3);
        assert_eq!(read_all(output), "hello\n");
        assert_eq!(runtime.state(&bundle.id).await.unwrap().status, Status::Stopped);

        let error = runtime.kill(&bundle.id, SIGKILL, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        let error = exec(runtime, &bundle.id, &["true"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");

        runtime.delete(&bundle.id, false).await.unwrap();
        for result in [
            runtime.state(&bundle.id).await.map(drop),
            runtime.start(&bundle.id).await,
            runtime.kill(&bundle.id, SIGKILL, false).await,
            runtime.delete(&bundle.id, false).await,
            runtime.ps(&bundle.id).await.map(drop),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
        }
    });
}

async fn exec(
    runtime: &dyn Runtime,
    id: &Id,
    args: &[&str],
) -> shim_protocol::Result<(super::Started, File)> {
    let (output, stdio) = output();
    let process = serde_json::to_vec(&process(args, false)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let started = runtime.exec(id, Exec { pid_file: &pid_file, process: &process, stdio }).await?;
    assert_eq!(std::fs::read_to_string(pid_file).unwrap(), started.pid.to_string());
    Ok((started, output))
}

/// A runtime that cannot freeze what is busy is asked again, but not for ever.
#[test]
fn pauses_that_fail_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("runtime");
    // The third time it works, and the fourth to sixth it does not.
    let text = r#"#!/bin/sh
case "$*" in
    *" state "*) echo '{"ociVersion":"1.0.2","id":"busy","status":"running","pid":1}' ;;
    *) echo >>tries; test $(wc -l <tries) -eq 3 ;;
esac
"#;
    std::fs::write(&script, text).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).unwrap();
    run(async |reaper| {
        let runtime = runtime(&script, folder.path(), &reaper);
        runtime.pause(&id("busy")).await.unwrap();
        runtime.pause(&id("busy")).await.unwrap_err();
    });
    let tries = std::fs::read_to_string(folder.path().join("tries")).unwrap();
    assert_eq!(tries.lines().count(), 6);
}

#[test]
fn exec_pause_update_and_list() {
    with_each_runtime("busy", &["sleep", "1000"], async |runtime, bundle| {
        let id = &bundle.id;
        let init = runtime.create(id, create(bundle, ChildStdio::NULL)).await.unwrap();
        runtime.start(id).await.unwrap();
        let error = runtime.start(id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");

        let (quick, output) = exec(runtime, id, &["sh", "-c", "echo in; exit 4"]).await.unwrap();
        assert_eq!(quick.exit.await.status, 4);
        assert_eq!(read_all(output), "in\n");
        let error = exec(runtime, id, &["/no/such/program"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");

        let (second, _output) = exec(runtime, id, &["sleep", "1000"]).await.unwrap();
        let mut pids = runtime.ps(id).await.unwrap();
        pids.sort_unstable();
        let mut expected = [init.pid, second.pid];
        expected.sort_unstable();
        assert_eq!(pids, expected);

        runtime.update(id, br#"{"pids": {"limit": 77}}"#).await.unwrap();
        runtime.pause(id).await.unwrap();
        assert_eq!(runtime.state(id).await.unwrap().status, Status::Paused);
        let error = exec(runtime, id, &["true"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        runtime.resume(id).await.unwrap();

        let error = runtime.delete(id, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        runtime.kill(id, SIGKILL, false).await.unwrap();
        assert_eq!(init.exit.await.status, 137);
        assert_eq!(second.exit.await.status, 137);
    });
}

#[test]
fn a_refused_create_leaves_nothing() {
    with_each_runtime("refused", &["/no/such/program"], async |runtime, bundle| {
        let config = bundle.path().join("config.json");
        let good = std::fs::read(&config).unwrap();
        std::fs::write(&config, b"{ not json").unwrap();
        let error = runtime.create(&bundle.id, create(bundle, ChildStdio::NULL)).await.unwrap_err();
        // A command line has no classes.
        let kinds = [ErrorKind::Unknown, ErrorKind::InvalidArgument];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert_eq!(runtime.state(&bundle.id).await.unwrap_err().kind(), ErrorKind::NotFound);

        std::fs::write(&config, good).unwrap();
        // Some runtimes look for the program at create, some at start.
        match runtime.create(&bundle.id, create(bundle, ChildStdio::NULL)).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}"),
            Ok(_) => assert!(runtime.start(&bundle.id).await.is_err()),
        }
    });
}

#[test]
fn a_second_container_of_the_same_name_is_refused() {
    with_each_runtime("twice", &["sleep", "1000"], async |runtime, bundle| {
        let first = runtime.create(&bundle.id, create(bundle, ChildStdio::NULL)).await.unwrap();
        let error = runtime.create(&bundle.id, create(bundle, ChildStdio::NULL)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
        assert_eq!(runtime.state(&bundle.id).await.unwrap().pid, first.pid);
    });
}

#[test]
fn a_missing_runtime_is_said_so() {
    run(async |reaper| {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime(Path::new("/no/such/runtime"), dir.path(), &reaper);
        let error = runtime.state(&id("none")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        assert_eq!(leftovers(dir.path()), Vec::<PathBuf>::new());
    });
}

#[test]
fn features_are_json_or_unimplemented() {
    let Some(runc) = program("features", "runc") else { return };
    run(async |reaper| {
        let dir = tempfile::tempdir().unwrap();
        match runtime(&runc, dir.path(), &reaper).features().await {
            Ok(document) => {
                let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
                assert!(document["ociVersionMax"].is_string());
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error:?}"),
        }
    });
}
