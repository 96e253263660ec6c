//! Containers on their way to disk, and from there.

use super::*;
use crate::runtime::Checkpoint;

#[test]
fn a_container_to_be_restored_has_no_process_before_its_start() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let request = Create { restore: Some("/image".into()), ..bench.request() };
        let container = bench.tasks.create(request.clone()).await.unwrap();
        assert_eq!(container.pid(), 0);
        let mut wait = Box::pin(container.wait(None));
        assert!(futures::poll!(wait.as_mut()).is_pending());
        let (pid, exit) = bench.tasks.delete("c", None).await.unwrap();
        assert_eq!((pid, exit), (0, None));
        assert!(wait.await.unwrap_err().is_not_found());
        let container = bench.tasks.create(request).await.unwrap();
        let pid = container.start(None).await.unwrap();
        let calls = ["can_checkpoint", "delete", "can_checkpoint", "restore"];
        assert_eq!(bench.stub.calls(), calls, "each is asked once");
        process::kill(pid, KILL).unwrap();
        container.wait(None).await.unwrap();
        bench.tasks.delete("c", None).await.unwrap();
        let events = ["create", "delete", "create", "start", "exit c 137", "delete"];
        assert_eq!(bench.events(), events);
    });
}

#[test]
fn a_restore_that_hangs_is_ended_by_a_kill() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let request = Create { restore: Some("/image".into()), ..bench.request() };
        let container = bench.tasks.create(request).await.unwrap();
        bench.stub.hang(&["restore"]);
        let start = tokio::spawn({
            let container = Arc::clone(&container);
            async move { container.start(None).await }
        });
        while !bench.stub.calls().contains(&"restore") {
            tokio::task::yield_now().await;
        }
        let error = container.kill(None, 15, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        container.kill(None, KILL, false).await.unwrap();
        assert!(start.await.unwrap().is_err());
        let error = container.kill(None, KILL, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "there is nothing to kill");
        // It may be tried again, and what was given up before is not this time.
        bench.stub.hang(&[]);
        container.start(None).await.unwrap();
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        bench.tasks.delete("c", None).await.unwrap();
        assert_eq!(bench.events(), ["create", "start", "exit c 137", "delete"]);
    });
}

#[test]
fn nothing_is_mounted_for_what_cannot_be_restored() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        bench.stub.break_verb(Some("can_checkpoint"));
        let rootfs = vec![Mount { kind: "no such kind".into(), ..Mount::default() }];
        let request = Create { restore: Some("/image".into()), rootfs, ..bench.request() };
        let error = bench.tasks.create(request.clone()).await.err().unwrap();
        assert!(error.report().to_string().ends_with("broken"), "{error:?}");
        bench.stub.break_verb(None);
        assert!(bench.tasks.create(request).await.is_err(), "it is mounted then");
        assert_eq!(bench.stub.calls(), ["can_checkpoint"; 2]);
    });
}

#[test]
fn a_checkpoint_that_ends_its_container_waits_for_the_end() {
    for broken in [None, Some("checkpoint")] {
        testing::run(async |reaper| {
            let bench = Bench::new(reaper);
            let container = bench.running().await;
            bench.stub.break_verb(broken);
            let image_path = bench.bundle.path().join("images");
            let request = Checkpoint { image_path, exit: true, ..Checkpoint::default() };
            assert_eq!(container.checkpoint(request).await.is_err(), broken.is_some());
            let end = container.snapshot(None).unwrap();
            assert_eq!((end.state, end.exit.unwrap().status), (State::Stopped, 137));
            bench.stub.break_verb(None);
            bench.tasks.delete("c", None).await.unwrap();
        });
    }
}

#[test]
fn nobody_else_writes_to_the_folder_of_a_checkpoint() {
    testing::run(async |reaper| {
        let bench = Bench::new(reaper);
        let container = bench.running().await;
        bench.stub.calls();
        let folder = tempfile::tempdir().unwrap();
        let image_path = folder.path().to_owned();
        let request = Checkpoint { image_path, ..Checkpoint::default() };
        let other = fs::File::open(folder.path()).unwrap();
        other.lock().unwrap();
        let error = container.checkpoint(request.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(bench.stub.calls().is_empty());
        other.unlock().unwrap();
        // It is in use from when it is asked for.
        let steering = container.steering.lock().await;
        let mut queued = Box::pin(container.checkpoint(request));
        assert!(futures::poll!(queued.as_mut()).is_pending());
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(steering);
        queued.await.unwrap();
        other.try_lock().unwrap();
        assert_eq!(bench.stub.calls(), ["checkpoint"]);
        container.kill(None, KILL, false).await.unwrap();
        container.wait(None).await.unwrap();
        bench.tasks.delete("c", None).await.unwrap();
    });
}
