//! What only the embedded runtime has: helpers, and state of its own.

use std::{
    fs,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    thread::{self, JoinHandle},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use serde_json::{Value, json};
use shim_protocol::ErrorKind;

use super::{EmbeddedRuntime, testing};
use crate::{
    runtime::{Checkpoint, ChildStdio, Create, Exec, Runtime, Status},
    sys,
    testing::{Bundle, process, run},
};

fn create(bundle: &Bundle) -> Create<'_> {
    let stdio = ChildStdio::NULL;
    Create { bundle: bundle.path(), stdio, no_pivot_root: false, no_new_keyring: false }
}

fn set(bundle: &Bundle, field: &str, value: Value) {
    let path = bundle.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn groups(bundle: &Bundle) -> usize {
    let config = fs::read(bundle.path().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let path = config["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
    let hierarchies = crate::cgroup::hierarchies().unwrap();
    hierarchies.iter().filter(|entry| entry.point.join(&path[1..]).exists()).count()
}

/// A helper may be killed at its worst moment: when init exists, and nobody but
/// it knows.
#[test]
fn a_helper_that_is_killed_leaves_nothing() {
    let Some(bundle) = Bundle::new("killed-helper", &["sleep", "1000"], false) else { return };
    let kill = json!([{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"]}]);
    set(&bundle, "hooks", json!({"createRuntime": kill}));
    run(async |reaper| {
        let runtime = testing::runtime(bundle.path(), &reaper);
        let error = runtime.create(&bundle.id, create(&bundle)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        assert_eq!(runtime.state(&bundle.id).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(groups(&bundle), 0);
        assert_eq!(EmbeddedRuntime::made(&bundle.path().join("state"), &bundle.id), None);

        // The name is free again.
        set(&bundle, "hooks", json!({}));
        let made = runtime.create(&bundle.id, create(&bundle)).await.unwrap();
        assert_eq!(runtime.state(&bundle.id).await.unwrap().pid, made.pid);
        assert!(groups(&bundle) > 0);
        runtime.delete(&bundle.id, true).await.unwrap();
        assert_eq!(made.exit.await.status, 137);
        assert_eq!(groups(&bundle), 0);
    });
    // What is left of a record that was not finished is nobody's either.
    let folder = bundle.path().join("state").join(&*bundle.id);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(".embedded.json~"), "{").unwrap();
    assert_eq!(EmbeddedRuntime::made(&bundle.path().join("state"), &bundle.id), Some(true));
}

/// Hooks at the end are run where processes can be made and waited for.
#[test]
fn hooks_around_a_life() {
    let Some(bundle) = Bundle::new("life-hooks", &["true"], false) else { return };
    let notes = bundle.path().join("notes");
    let note = |word: &str| {
        let script = format!("cat >/dev/null; echo {word} >>{}", notes.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    set(&bundle, "hooks", json!({"poststart": note("started"), "poststop": note("stopped")}));
    run(async |reaper| {
        let runtime = testing::runtime(bundle.path(), &reaper);
        let made = runtime.create(&bundle.id, create(&bundle)).await.unwrap();
        runtime.start(&bundle.id).await.unwrap();
        assert_eq!(fs::read_to_string(&notes).unwrap(), "started\n");
        assert_eq!(made.exit.await.status, 0);
        runtime.delete(&bundle.id, false).await.unwrap();
        assert_eq!(fs::read_to_string(&notes).unwrap(), "started\nstopped\n");
    });
}

/// The other worst moment: the process is complete, waits for its helper, and
/// has copies of all that the helper had open.
#[test]
fn a_helper_that_is_killed_holds_nobody_up() {
    let Some(bundle) = Bundle::new("killed-late", &["sleep", "1000"], false) else { return };
    // A helper is held up where it hands a listener to somebody who takes none.
    let answers = bundle.path().join("answers");
    let full = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(full.as_raw_fd(), &UnixAddr::new(&answers).unwrap()).unwrap();
    listen(&full, Backlog::new(0).unwrap()).unwrap();
    let _first = UnixStream::connect(&answers).unwrap();
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": answers,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    });
    let config = bundle.path().join("config.json");
    let record = bundle.path().join("state").join(&*bundle.id).join("embedded.json");
    let edit = |path: &Path, edit: &dyn Fn(&mut Value)| {
        let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        edit(&mut json);
        fs::write(path, json.to_string()).unwrap();
    };
    run(async |reaper| {
        let runtime = testing::runtime(bundle.path(), &reaper);
        edit(&config, &|config| config["linux"]["seccomp"] = filter.clone());
        let killer = kill_a_helper_that_connects();
        let error = runtime.create(&bundle.id, create(&bundle)).await.unwrap_err();
        killer.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        assert_eq!(groups(&bundle), 0);
        assert_eq!(EmbeddedRuntime::made(&bundle.path().join("state"), &bundle.id), None);

        // The same with a process that is added.
        edit(&config, &|config| config["linux"]["seccomp"] = Value::Null);
        let made = runtime.create(&bundle.id, create(&bundle)).await.unwrap();
        runtime.start(&bundle.id).await.unwrap();
        edit(&record, &|record| record["seccomp"] = filter.clone());
        let process = serde_json::to_vec(&process(&["sleep", "1001"], false)).unwrap();
        let pid_file = bundle.path().join("added.pid");
        let (stdio, process) = (ChildStdio::NULL, &*process);
        let killer = kill_a_helper_that_connects();
        let request = Exec { process, pid_file: &pid_file, stdio };
        let error = runtime.exec(&bundle.id, request).await.unwrap_err();
        killer.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        while runtime.ps(&bundle.id).await.unwrap() != [made.pid] {
            tokio::task::yield_now().await;
        }
        runtime.delete(&bundle.id, true).await.unwrap();
        assert_eq!(made.exit.await.status, 137);
    });
}

/// Kills the helper of this process that is in connect(2), once there is one.
fn kill_a_helper_that_connects() -> JoinHandle<()> {
    let connects = format!("{} ", nix::libc::SYS_connect);
    thread::spawn(move || {
        loop {
            for task in fs::read_dir("/proc/self/task").unwrap() {
                let children = fs::read_to_string(task.unwrap().path().join("children"));
                for pid in children.unwrap_or_default().split_whitespace() {
                    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
                    let is_helper = of("comm").is_ok_and(|name| name == "shim-helper\n");
                    if is_helper && of("syscall").is_ok_and(|call| call.starts_with(&connects)) {
                        sys::process::kill(pid.parse().unwrap(), 9).unwrap();
                        return;
                    }
                }
            }
            thread::yield_now();
        }
    })
}

/// What another runtime has made is known to be its.
#[test]
fn a_container_of_another_maker_is_left_alone() {
    let Some(bundle) = Bundle::new("others", &["true"], false) else { return };
    let root = bundle.path().join("state");
    let folder = root.join(&*bundle.id);
    fs::create_dir_all(&folder).unwrap();
    // A folder alone is what a maker leaves that died at once.
    assert_eq!(EmbeddedRuntime::made(&root, &bundle.id), Some(true));
    fs::write(folder.join("state.json"), "{}").unwrap();
    assert_eq!(EmbeddedRuntime::made(&root, &bundle.id), Some(false));
    run(async |reaper| {
        let runtime = testing::runtime(bundle.path(), &reaper);
        let error = runtime.create(&bundle.id, create(&bundle)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
        let error = runtime.delete(&bundle.id, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(folder.join("state.json").exists());
    });
}

/// A record that is garbage keeps nobody from removing the container.
#[test]
fn a_broken_record_is_said_so_and_can_be_removed() {
    let Some(bundle) = Bundle::new("broken", &["true"], false) else { return };
    let folder = bundle.path().join("state").join(&*bundle.id);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("embedded.json"), "{").unwrap();
    run(async |reaper| {
        let runtime = testing::runtime(bundle.path(), &reaper);
        let error = runtime.state(&bundle.id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error:?}");
        runtime.delete(&bundle.id, true).await.unwrap();
        assert!(!folder.exists());
    });
}

#[test]
fn what_is_not_possible_names_the_remedy() {
    let Some(bundle) = Bundle::new("unable", &["sleep", "1000"], false) else { return };
    run(async |reaper| {
        let runtime = testing::runtime(bundle.path(), &reaper);
        runtime.create(&bundle.id, create(&bundle)).await.unwrap();
        let error = runtime.checkpoint(&bundle.id, &Checkpoint::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.to_string().contains("--runc-binary runc"), "{error}");
        assert_eq!(runtime.state(&bundle.id).await.unwrap().status, Status::Created);
        runtime.delete(&bundle.id, true).await.unwrap();
    });
}
