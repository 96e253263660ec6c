//! Shims that hang, refuse, lie or vanish.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{
    future::Future,
    path::Path,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use common::{
    World,
    fake::{Shim, until},
    id, with_shim,
};
use runtime_v2::{Recovered, Status, Timeouts};
use shim_protocol::{
    ErrorKind, Id,
    exits::{self, ExitRecord},
    proto::task_types::Status as WireStatus,
};

async fn with_world<F: Future<Output = World>>(body: impl FnOnce(World) -> F) {
    with_shim(Path::new("/bin/sh"), body).await;
}

fn short() -> Timeouts {
    let limit = Duration::from_millis(300);
    Timeouts { load: limit, request: limit, cleanup: limit, shutdown: limit, ..Default::default() }
}

/// It says "version 3", and speaks version 2.
#[tokio::test]
async fn an_older_version_is_spoken_after_all() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        assert_eq!(task.pid(), 7);
        task.kill(None, 9, false).await.unwrap();
        assert_eq!(task.wait(None).await.unwrap().status, 4);
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        assert_eq!(shim.fake.asked(), ["connect", "create", "kill", "wait", "delete", "shutdown"]);
        world
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_never_answers_does_not_hold_a_create() {
    for method in ["connect", "create"] {
        with_world(async |mut world: World| {
            world.set_timeouts(short()).await;
            let mut shim = Shim::serve(&world, Some(method)).await;
            let error = world.manager.create(shim.request(&world)).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
            // Whoever does not shut down is killed, if it has said who it is.
            assert_eq!(shim.is_alive(), method == "connect");
            world
        })
        .await;
    }
}

/// How long it takes to bring memory back depends on how much there is.
#[tokio::test]
async fn a_start_from_a_checkpoint_has_no_limit() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let mut shim = Shim::serve(&world, Some("start")).await;
        shim.fake.restoring.store(true, Ordering::SeqCst);
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let starting = tokio::spawn({
            let task = task.clone();
            async move { task.start(None).await }
        });
        until(|| shim.fake.asked().contains(&"start")).await;
        // A limit that begins later has passed.
        *shim.fake.hang_on.lock().unwrap() = Some("kill");
        let error = task.kill(None, 9, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(!starting.is_finished());
        shim.fake.hangs_on(None);
        assert_eq!(starting.await.unwrap().unwrap_err().kind(), ErrorKind::Unknown);
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

/// Nobody else would note the pid.
#[tokio::test]
async fn a_start_from_a_checkpoint_survives_its_caller() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, Some("start")).await;
        shim.fake.restoring.store(true, Ordering::SeqCst);
        shim.fake.willing.store(true, Ordering::SeqCst);
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let restore = world.folder.path().join("root").join(&world.namespace).join("a/restore");
        std::fs::create_dir(&restore).unwrap();
        let starting = tokio::spawn({
            let task = task.clone();
            async move { task.start(None).await }
        });
        until(|| shim.fake.asked().contains(&"start")).await;
        starting.abort();
        assert!(starting.await.unwrap_err().is_cancelled());
        shim.fake.hangs_on(None);
        until(|| task.pid() == 9 && !restore.exists()).await;
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_does_not_end_after_its_last_task_is_killed() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        assert_eq!(task.delete().await.unwrap().exit.status, 5);
        assert!(!shim.is_alive());
        // It said nothing of the end, so the daemon does.
        let topics: Vec<_> = world.log.all().into_iter().map(|event| event.topic).collect();
        assert_eq!(topics, ["/tasks/exit", "/tasks/delete"]);
        world
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_is_made_again_while_the_shim_lives() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, Some("wait")).await;
        shim.is_status(WireStatus::CREATED);
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let waiting = task.clone();
        let wait = tokio::spawn(async move { waiting.wait(None).await });
        until(|| shim.fake.asked().contains(&"wait")).await;
        shim.hang_up().await;
        shim.listen_again().await;
        // The wait is asked again.
        until(|| shim.fake.asked().iter().filter(|m| **m == "wait").count() == 2).await;
        assert_eq!(task.state(None).await.unwrap().status, Status::Created);
        shim.fake.never.notify_waiters();
        assert_eq!(wait.await.unwrap().unwrap().status, 4);
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

#[tokio::test]
async fn a_shim_that_cannot_be_reached_any_more_is_killed() {
    with_world(async |mut world: World| {
        let load = short().load;
        world.set_timeouts(Timeouts { load, ..Timeouts::default() }).await;
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        shim.hang_up().await;
        world.gone("a").await;
        assert!(!shim.is_alive());
        assert!(task.state(None).await.is_err_and(|e| e.is_not_found()));
        assert_eq!(world.log.exit_of("a").await.status, 0);
        world
    })
    .await;
}

#[tokio::test]
async fn what_is_on_record_is_announced_for_a_dead_shim() {
    for while_away in [false, true] {
        with_world(async |mut world: World| {
            let mut shim = Shim::serve(&world, None).await;
            let task = world.manager.create(shim.request(&world)).await.unwrap();
            let record = |exec_id: Option<Id>, pid, status| {
                let record = ExitRecord { exec_id, pid, status, at: SystemTime::now() };
                exits::write(task.bundle(), &record).unwrap();
            };
            record(None, 7, 42);
            record(Some(id("late")), 9, 2);
            let mut end = async |_: &World| {
                shim.process.kill().unwrap();
                shim.process.wait().unwrap();
                shim.hang_up().await;
            };
            if while_away {
                let recovered = world.restart(end).await;
                assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
            } else {
                end(&world).await;
                assert_eq!(task.wait(None).await.unwrap().status, 42);
                world.gone("a").await;
            }
            let said: Vec<_> = world
                .log
                .all()
                .into_iter()
                .map(|e| (e.topic, e.process, e.pid, e.status))
                .collect();
            assert_eq!(
                said,
                [
                    ("/tasks/exit".into(), "late".into(), 9, 2),
                    ("/tasks/exit".into(), "a".into(), 7, 42),
                    ("/tasks/delete".into(), String::new(), 7, 42),
                ]
            );
            world
        })
        .await;
    }
}

/// Its create was announced, without a pid, and nobody knows more of it.
#[tokio::test]
async fn the_end_of_what_was_to_be_restored_is_told() {
    for while_away in [false, true] {
        with_world(async |mut world: World| {
            let mut shim = Shim::serve(&world, None).await;
            shim.fake.restoring.store(true, Ordering::SeqCst);
            world.manager.create(shim.request(&world)).await.unwrap();
            let mut end = async |_: &World| {
                shim.process.kill().unwrap();
                shim.process.wait().unwrap();
                shim.hang_up().await;
            };
            if while_away {
                let recovered = world.restart(end).await;
                assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
            } else {
                end(&world).await;
                world.gone("a").await;
            }
            assert_eq!(world.log.closed(), [id("a")]);
            world
        })
        .await;
    }
}

/// The shim has not got to say how an exec ended.
#[tokio::test]
async fn what_is_on_record_is_announced_with_a_delete() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        let record =
            ExitRecord { exec_id: Some(id("e")), pid: 9, status: 3, at: SystemTime::now() };
        exits::write(task.bundle(), &record).unwrap();
        task.delete().await.unwrap();
        let said: Vec<_> = world.log.all().into_iter().map(|e| (e.topic, e.status)).collect();
        let exit = "/tasks/exit".to_owned();
        assert_eq!(said, [(exit.clone(), 3), (exit, 5), ("/tasks/delete".into(), 5)]);
        world
    })
    .await;
}

/// The delete of a shim's binary that keeps no records says SIGKILL of all.
#[tokio::test]
async fn a_container_that_a_shim_forgot_is_deleted_as_it_ended() {
    with_world(async |mut world: World| {
        world.set_timeouts(short()).await;
        let mut shim = Shim::serve(&world, None).await;
        let mut request = shim.request(&world);
        let script = std::fs::read_to_string(&request.runtime).unwrap();
        // Pid 7, status 137.
        let gone = r"case $* in *delete) printf '\010\007\020\211\001';; esac";
        request.runtime = world.script_shim(&format!("{script}\n{gone}"));
        let task = world.manager.create(request).await.unwrap();
        std::fs::write(task.bundle().join("init.pid"), "7").unwrap();
        world.log.exited("a", 7, 3).await;
        shim.fake.ignorant.store(true, Ordering::SeqCst);
        shim.process.kill().unwrap();
        let recovered = world.restart(async |_| {}).await;
        assert_eq!(recovered, Recovered { cleaned: 1, ..Default::default() });
        let said: Vec<_> = world.log.all().into_iter().map(|e| (e.topic, e.status)).collect();
        assert_eq!(said, [("/tasks/exit".into(), 3), ("/tasks/delete".into(), 3)]);
        world
    })
    .await;
}

/// It goes on without its caller, who may delete what it makes.
#[tokio::test]
async fn a_task_that_is_being_made_can_be_waited_for() {
    for succeeds in [true, false] {
        with_world(async |mut world: World| {
            let limit = Duration::from_millis(300);
            world.set_timeouts(Timeouts { shutdown: limit, ..Timeouts::default() }).await;
            let mut shim = Shim::serve(&world, Some("create")).await;
            let (manager, request) = (world.manager.clone(), shim.request(&world));
            let create = tokio::spawn(async move { manager.create(request).await.map(drop) });
            until(|| shim.fake.asked().contains(&"create")).await;
            create.abort();
            assert!(create.await.unwrap_err().is_cancelled());
            let (manager, namespace) = (world.manager.clone(), world.namespace.clone());
            let found =
                tokio::spawn(async move { manager.get_when_made(&namespace, &id("a")).await });
            assert!(world.manager.get(&world.namespace, &id("a")).is_err());
            if succeeds {
                shim.fake.hangs_on(None);
                found.await.unwrap().unwrap().delete().await.unwrap();
            } else {
                shim.process.kill().unwrap();
                shim.hang_up().await;
                assert!(found.await.unwrap().err().unwrap().is_not_found());
            }
            assert!(!shim.is_alive());
            assert!(!world.manager.is_known(&world.namespace, &id("a")));
            world
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusal_without_a_class_gets_one_from_the_state() {
    with_world(async |world: World| {
        let mut shim = Shim::serve(&world, None).await;
        let task = world.manager.create(shim.request(&world)).await.unwrap();
        shim.is_status(WireStatus::RUNNING);
        for error in
            [task.start(None).await.unwrap_err(), task.delete().await.map(drop).unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
            assert!(error.report().to_string().contains("I will not"), "{error:?}");
        }
        // Here the state is right, so it is something else.
        let error = task.exec(common::exec("e", "true")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
        shim.is_status(WireStatus::STOPPED);
        let error = task.exec(common::exec("e", "true")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        shim.process.kill().unwrap();
        task.delete().await.unwrap();
        world
    })
    .await;
}

/// At boot the shim may say what it kept before it is asked for states.
#[tokio::test]
async fn the_outbox_is_emptied_before_states_are_asked() {
    with_world(async |mut world: World| {
        let mut shim = Shim::serve(&world, None).await;
        shim.is_status(WireStatus::CREATED);
        world.manager.create(shim.request(&world)).await.unwrap();
        let recovered = world.restart(async |_| {}).await;
        assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
        assert_eq!(shim.fake.asked(), ["connect", "create", "connect", "flush", "state"]);
        shim.process.kill().unwrap();
        world.manager.get(&world.namespace, &id("a")).unwrap().delete().await.unwrap();
        world
    })
    .await;
}

/// A shim that hangs, or gives no sense, has a task, and is asked again.
#[tokio::test]
async fn what_a_shim_has_to_tell_is_asked_until_it_answers() {
    for refusing in [false, true] {
        with_world(async |mut world: World| {
            world.set_timeouts(short()).await;
            let mut shim = Shim::serve(&world, None).await;
            shim.is_status(WireStatus::STOPPED);
            world.manager.create(shim.request(&world)).await.unwrap();
            shim.fake.refusing.store(refusing, Ordering::SeqCst);
            shim.fake.hangs_on(Some("connect").filter(|_| !refusing));
            let recovered = world.restart(async |_| {}).await;
            assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
            assert!(world.log.all().is_empty());
            shim.fake.refusing.store(false, Ordering::SeqCst);
            shim.fake.hangs_on(None);
            world.log.exit_of("a").await;
            shim.process.kill().unwrap();
            world.manager.get(&world.namespace, &id("a")).unwrap().delete().await.unwrap();
            world
        })
        .await;
    }
}

/// A shim that hangs, and then does not know the container: there never was
/// one, or it was deleted, and then its end is on record. That its program
/// cannot clean up is no reason to keep that back.
#[tokio::test]
async fn a_container_that_a_shim_does_not_know_is_ended() {
    for recorded in [false, true] {
        with_world(async |mut world: World| {
            world.set_timeouts(short()).await;
            let mut shim = Shim::serve(&world, None).await;
            let mut request = shim.request(&world);
            let script = std::fs::read_to_string(&request.runtime).unwrap();
            request.runtime =
                world.script_shim(&format!("{script}\ncase \"$*\" in *delete) exit 1;; esac"));
            let task = world.manager.create(request).await.unwrap();
            if recorded {
                let at = SystemTime::now();
                let record = ExitRecord { exec_id: None, pid: 7, status: 42, at };
                exits::write(task.bundle(), &record).unwrap();
            }
            shim.fake.hangs_on(Some("connect"));
            let recovered = world.restart(async |_| {}).await;
            assert_eq!(recovered, Recovered { live: 1, ..Default::default() });
            shim.fake.ignorant.store(true, Ordering::SeqCst);
            shim.process.kill().unwrap();
            shim.fake.hangs_on(None);
            world.gone("a").await;
            let said: Vec<_> = world.log.all().into_iter().map(|e| (e.topic, e.status)).collect();
            let end = [("/tasks/exit".to_owned(), 42), ("/tasks/delete".to_owned(), 42)];
            assert_eq!(said, if recorded { end.to_vec() } else { Vec::new() });
            world
        })
        .await;
    }
}
