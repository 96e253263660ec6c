//! Tasks that take their time to be made.

use std::{os::unix::fs::PermissionsExt, process::Command};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::tasks;

/// A shim that says when it is started, and then fails when it is told to. It is
/// started again, with other words, and fails at once.
struct Slow {
    folder: tempfile::TempDir,
}

impl Slow {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["started", "go"] {
            mkfifo(&folder.path().join(name), Mode::S_IRWXU).unwrap();
        }
        let at = folder.path().display();
        let script = format!(
            "#!/bin/sh\n\
             case \"$*\" in *start)\n\
                 if mkdir {at}/once; then : > {at}/started; read x < {at}/go; fi; exit 1;;\n\
             esac\n"
        );
        // By another process: a child of another test may have this file open.
        fs::write(folder.path().join("draft"), script).unwrap();
        let (draft, program) = (folder.path().join("draft"), folder.path().join("shim"));
        assert!(Command::new("cp").args([&draft, &program]).status().unwrap().success());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn runtime(&self) -> String {
        self.folder.path().join("shim").display().to_string()
    }

    /// Waits until it is started.
    async fn started(&self) {
        tokio::fs::read(self.folder.path().join("started")).await.unwrap();
    }

    async fn go(&self) {
        tokio::fs::write(self.folder.path().join("go"), "go\n").await.unwrap();
    }
}

impl Fixture {
    /// A bundle of that name.
    fn bundle(&self, name: &str) -> Create {
        let bundle = self.folder.path().join(name);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let config = r#"{"ociVersion":"1.0.2","process":{"args":["true"],"cwd":"/"},
            "root":{"path":"rootfs"}}"#;
        fs::write(bundle.join("config.json"), config).unwrap();
        Create { id: name.into(), bundle: bundle.display().to_string(), ..Create::default() }
    }

    async fn is_unwanted(&self, name: &str) -> bool {
        self.legacy.record(&id(name)).await.unwrap().is_unwanted(None)
    }
}

/// What makes the task does not end with the daemon's patience.
#[tokio::test]
async fn a_create_that_is_given_up_keeps_its_record_while_the_task_is_made() {
    let slow = Slow::new();
    let fixture = Fixture::with(Duration::ZERO, &slow.runtime()).await;
    let (legacy, request) = (fixture.legacy.clone(), fixture.bundle("a"));
    let creating = tokio::spawn(async move { legacy.create(request).await });
    slow.started().await;
    // As a shutdown does it that has waited for long enough.
    fixture.legacy.closing.cancel();
    assert_eq!(creating.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    fixture.legacy.work.close();
    fixture.legacy.work.wait().await;
    assert!(fixture.is_unwanted("a").await);
    assert!(fixture.manager.is_known(&id("legacy"), &id("a")));

    // It is for the keeper to end it, once it is made.
    slow.go().await;
    fixture.legacy.look(&id("a")).await.unwrap();
    assert!(fixture.legacy.record(&id("a")).await.unwrap_err().is_not_found());
    assert!(!fixture.manager.is_known(&id("legacy"), &id("a")));
}

/// Through the other API, of the record of one that has ended.
#[tokio::test]
async fn the_record_of_a_task_that_is_being_made_is_not_taken_away() {
    let slow = Slow::new();
    let fixture = Fixture::with(Duration::ZERO, &slow.runtime()).await;
    let legacy = &fixture.legacy;
    let request = fixture.bundle("a");
    let bundle = bundle::load(Path::new(&request.bundle), "/a").unwrap();
    let record = legacy.describe(&id("a"), bundle).unwrap();
    fixture.containers.create(&id("legacy"), record).await.unwrap();
    let create = tasks::Create {
        namespace: id("legacy"),
        container: id("a"),
        rootfs: Vec::new(),
        stdio: runtime_v2::Stdio::default(),
        options: None,
        runtime_path: String::new(),
        checkpoint: None,
        task_api_address: String::new(),
    };
    let tasks = legacy.tasks.clone();
    let creating = tokio::spawn(async move { tasks.create(create).await });
    slow.started().await;
    legacy.ended(&id("a"), ending(7, 3, 9)).await.unwrap();
    legacy.look(&id("a")).await.unwrap();
    let taken = legacy.create(request.clone()).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert!(legacy.record(&id("a")).await.is_ok());
    slow.go().await;
    creating.await.unwrap().unwrap_err();
    legacy.look(&id("a")).await.unwrap();
    assert!(legacy.record(&id("a")).await.unwrap_err().is_not_found());
}
