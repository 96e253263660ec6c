//! What only the embedded runtime has: helpers, and state of its own.

use std::fs;

use serde_json::{Value, json};
use shim_protocol::ErrorKind;

use super::{EmbeddedRuntime, testing};
use crate::{
    runtime::{Checkpoint, ChildStdio, Create, Runtime, Status},
    testing::{Bundle, run},
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
