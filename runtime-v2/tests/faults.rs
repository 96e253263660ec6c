//! Shims that die, hang or talk nonsense, and requests that cannot be met.
//! Whatever happens, nothing is left behind. Needs root.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{World, exec, id, names_in, spec, with_shim};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use runtime_v2::{Mount, Timeouts};
use shim_protocol::{Error, ErrorKind};

for_each_shim!(
    a_killed_shim_is_cleaned_up,
    a_killed_shim_of_a_group_is_cleaned_up_for_each,
    a_container_ends_though_its_shim_cannot_delete_it,
    a_create_that_fails_leaves_nothing,
    a_create_without_a_folder_on_disk_leaves_nothing,
    creates_of_one_id_have_one_winner,
    deletes_of_one_task_have_one_winner,
    a_caller_that_goes_away_leaves_a_whole_task_or_none,
    a_shutdown_leaves_containers_alone,
);

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

async fn a_killed_shim_is_cleaned_up(world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    let other = world.manager.create(world.request("b", "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    other.start(None).await.unwrap();
    let e = id("e");
    task.exec(exec("e", "sleep 1000")).await.unwrap();
    let exec_pid = task.start(Some(&e)).await.unwrap();

    let shim = world.shim_of("a");
    let (waiting, task_) = (task.clone(), task.clone());
    let init = tokio::spawn(async move { waiting.wait(None).await });
    let exec = tokio::spawn(async move { task_.wait(Some(&id("e"))).await });
    kill_hard(shim);
    assert_eq!(init.await.unwrap().unwrap().status, 137);
    assert_eq!(exec.await.unwrap().unwrap().status, 137);
    world.gone("a").await;

    assert!(task.kill(None, 9, false).await.is_err_and(|e| e.is_not_found()));
    let exits: Vec<_> =
        world.log.of("/tasks/exit").into_iter().map(|e| (e.process, e.pid, e.status)).collect();
    assert_eq!(exits, [("e".into(), exec_pid, 137), ("a".into(), task.pid(), 137)]);
    let deletes = world.log.of("/tasks/delete");
    assert_eq!(deletes.len(), 1);
    assert_eq!((deletes[0].container.as_str(), deletes[0].pid), ("a", task.pid()));

    // The other one did not notice.
    other.kill(None, 9, false).await.unwrap();
    other.wait(None).await.unwrap();
    other.delete().await.unwrap();
    world
}

async fn a_killed_shim_of_a_group_is_cleaned_up_for_each(world: World) -> World {
    for container in ["a", "b", "c"] {
        let mut request = world.request(container, "");
        let group = [("io.kubernetes.cri.sandbox-id", "a")];
        request.spec = spec(&world.cgroup(container), &["sleep", "1000"], &group);
        world.manager.create(request).await.unwrap().start(None).await.unwrap();
    }
    let shims = world.shims();
    assert_eq!(shims.len(), 1);
    kill_hard(shims[0]);
    for container in ["a", "b", "c"] {
        assert_eq!(world.log.exit_of(container).await.status, 137);
        world.gone(container).await;
    }
    world
}

/// Each step of a create is made to fail in turn.
async fn a_container_ends_though_its_shim_cannot_delete_it(world: World) -> World {
    let shim = world.shim.display();
    let broken = format!(r#"case "$*" in *delete) exit 1;; *) exec {shim} "$@";; esac"#);
    let mut request = world.request("a", "sleep 1000");
    request.runtime = world.script_shim(&broken);
    let task = world.manager.create(request).await.unwrap();
    task.start(None).await.unwrap();
    kill_hard(world.shim_of("a"));
    let exit = world.log.exit_of("a").await;
    assert_eq!((exit.pid, exit.status), (task.pid(), 137));
    world.gone("a").await;
    // Its runtime's notes are nobody else's to remove.
    fs::remove_dir_all(Path::new("/run/containerd/runc").join(&world.namespace)).unwrap();
    world
}

async fn a_create_that_fails_leaves_nothing(world: World) -> World {
    let attempt = async |change: &dyn Fn(&mut runtime_v2::CreateTask)| -> Error {
        let mut request = world.request("a", "true");
        change(&mut request);
        let error = world.manager.create(request).await.err().unwrap();
        assert!(world.manager.get(&world.namespace, &id("a")).is_err());
        for kind in ["state", "root"] {
            let folder = world.folder.path().join(kind).join(&world.namespace);
            assert_eq!(names_in(&folder), Vec::<String>::new(), "{error:?}");
        }
        assert_eq!(world.shims(), Vec::<i32>::new(), "{error:?}");
        error
    };
    // Finding the shim.
    for (runtime, kind) in [
        ("io.containerd.nothing.v9", ErrorKind::FailedPrecondition),
        ("/nowhere/shim", ErrorKind::FailedPrecondition),
        ("../shim", ErrorKind::InvalidArgument),
        ("", ErrorKind::InvalidArgument),
    ] {
        let error = attempt(&|request| request.runtime = runtime.into()).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.report().to_string().contains(runtime), "{error:?}");
    }
    // Making the bundle.
    let error = attempt(&|request| request.spec = b"{ nonsense".to_vec()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert!(error.report().to_string().contains("config.json"), "{error:?}");
    // Starting the shim.
    let script = world.script_shim("echo out; echo err >&2; exit 1");
    let error = attempt(&|request| request.runtime = script.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    assert!(error.report().to_string().contains("err"), "{error:?}");
    // Connecting.
    let script = world.script_shim("echo unix:///nowhere/s");
    let error = attempt(&|request| request.runtime = script.clone()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // Creating the container: a mount that fails, a program that is not there,
    // a configuration that the runtime refuses.
    attempt(&|request| {
        request.rootfs =
            vec![Mount { kind: "nothing".into(), source: "none".into(), ..Mount::default() }];
    })
    .await;
    let mut half = world.request("a", "true").rootfs;
    half.push(Mount { kind: "nothing".into(), source: "none".into(), ..Mount::default() });
    attempt(&|request| request.rootfs = half.clone()).await;
    let cgroup = world.cgroup("a");
    attempt(&|request| request.spec = spec(&cgroup, &[], &[])).await;
    attempt(&|request| request.spec = b"{}".to_vec()).await;
    assert_eq!(world.log.all(), []);
    world
}

/// The folder on disk is made while the shim starts: one may fail, or both.
async fn a_create_without_a_folder_on_disk_leaves_nothing(world: World) -> World {
    let root = world.folder.path().join("root");
    fs::create_dir_all(&root).unwrap();
    let obstacle = root.join(&world.namespace);
    fs::write(&obstacle, "").unwrap();
    let failing = world.script_shim("exit 1");
    for runtime in [world.shim.to_str().unwrap(), &failing] {
        let mut request = world.request("a", "true");
        request.runtime = runtime.into();
        let error = world.manager.create(request).await.err().unwrap();
        let text = error.report().to_string();
        let blamed = if runtime == failing { runtime } else { obstacle.to_str().unwrap() };
        assert!(text.contains(blamed), "{text}");
        assert!(world.manager.get(&world.namespace, &id("a")).is_err());
        let state = world.folder.path().join("state").join(&world.namespace);
        assert_eq!(names_in(&state), Vec::<String>::new());
        assert_eq!(world.shims(), Vec::<i32>::new());
        assert!(world.log.all().is_empty());
    }
    fs::remove_file(&obstacle).unwrap();
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    task.delete().await.unwrap();
    world
}

async fn creates_of_one_id_have_one_winner(world: World) -> World {
    let attempts: Vec<_> = (0..8)
        .map(|_| {
            let (manager, request) = (world.manager.clone(), world.request("a", "true"));
            tokio::spawn(async move { manager.create(request).await })
        })
        .collect();
    let mut tasks = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(task) => tasks.push(task),
            Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e:?}"),
        }
    }
    assert_eq!(tasks.len(), 1);
    tasks[0].delete().await.unwrap();
    world
}

async fn deletes_of_one_task_have_one_winner(world: World) -> World {
    let task = world.manager.create(world.request("a", "true")).await.unwrap();
    let attempts: Vec<_> = (0..8)
        .map(|_| {
            let task = task.clone();
            tokio::spawn(async move { task.delete().await })
        })
        .collect();
    let mut deleted = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(_) => deleted += 1,
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e:?}"),
        }
    }
    assert_eq!(deleted, 1);
    world
}

async fn a_caller_that_goes_away_leaves_a_whole_task_or_none(world: World) -> World {
    for patience in [0, 1, 5, 20, 50] {
        let limit = Duration::from_millis(patience);
        let create = world.manager.create(world.request("a", "true"));
        let _ = tokio::time::timeout(limit, create).await;
        // The create goes on, so its id is taken until it is done.
        let task = loop {
            match world.manager.get(&world.namespace, &id("a")) {
                Ok(task) => break Some(task),
                // It had not even begun.
                Err(_) if names_in(&world.bundle("..")).is_empty() && patience == 0 => break None,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        if let Some(task) = task {
            let _ = tokio::time::timeout(limit, task.delete()).await;
        }
        world.gone("a").await;
    }
    world
}

async fn a_shutdown_leaves_containers_alone(mut world: World) -> World {
    let task = world.manager.create(world.request("a", "sleep 1000")).await.unwrap();
    task.start(None).await.unwrap();
    let waiting = task.clone();
    let wait = tokio::spawn(async move { waiting.wait(None).await });
    while !wait.is_finished() && world.manager.list(&world.namespace).len() == 1 {
        world.manager.shutdown().await;
    }
    assert_eq!(wait.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(world.shims().len(), 1);
    // It is let go of, and not gone.
    assert!(world.manager.has(&world.namespace, &id("a")));
    let unknown = world.manager.get_when_made(&world.namespace, &id("a")).await;
    assert_eq!(unknown.err().unwrap().kind(), ErrorKind::Unavailable);
    let refused = world.manager.create(world.request("b", "true")).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);

    let recovered = world.restart(async |_| {}).await;
    assert_eq!((recovered.live, recovered.stopped, recovered.cleaned), (1, 0, 0));
    let again = world.manager.get(&world.namespace, &id("a")).unwrap();
    assert_eq!(again.pid(), task.pid());
    again.kill(None, 9, false).await.unwrap();
    again.wait(None).await.unwrap();
    again.delete().await.unwrap();
    world
}

/// Shims that are shell scripts.
mod scripts {
    use super::*;

    async fn start_of(script: &str, timeouts: Timeouts) -> Error {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        with_shim(Path::new("/bin/sh"), async |mut world: World| {
            world.set_timeouts(timeouts).await;
            let mut request = world.request("a", "true");
            // It also has to survive that its `delete` does the same.
            request.runtime = world.script_shim(script);
            sender.send(world.manager.create(request).await.err().unwrap()).unwrap();
            assert_eq!(world.log.all(), []);
            world
        })
        .await;
        receiver.await.unwrap()
    }

    fn short() -> Timeouts {
        let limit = Duration::from_millis(300);
        Timeouts { start: limit, cleanup: limit, load: limit, ..Timeouts::default() }
    }

    #[tokio::test]
    async fn nonsense_is_quoted() {
        for said in ["hello world", "", "{\"version\":3}", "unix://relative"] {
            let error = start_of(&format!("printf '%s' '{said}'"), Timeouts::default()).await;
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
            assert!(error.report().to_string().contains(&format!("{said:?}")), "{error:?}");
        }
    }

    #[tokio::test]
    async fn too_much_is_cut_off() {
        let error = start_of("while :; do echo unix:///s; done", Timeouts::default()).await;
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        let error = start_of("while :; do echo x >&2; done", Timeouts::default()).await;
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_its_children() {
        let error = start_of("sleep 1000 & sleep 1000", short()).await;
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
        assert!(error.report().to_string().contains("containerd-shim-script-v1"), "{error:?}");
    }

    /// As a shim that was forked, and then never listens.
    #[tokio::test]
    async fn what_it_left_running_is_ended() {
        let script = r#"case "$*" in *start)
            setsid sh -c 'kill -STOP $$' shim "$@" <&- >&- 2>&- & exit 1;; esac"#;
        let error = start_of(script, Timeouts::default()).await;
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    }

    #[tokio::test]
    async fn a_child_that_holds_the_output_does_not_hold_us() {
        // It has left the group, so that it is not killed; it ends by itself.
        let script = "setsid sleep 3 & echo unix:///nowhere/s";
        let error = start_of(script, Timeouts::default()).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }

    #[tokio::test]
    async fn a_version_we_do_not_speak_is_unimplemented() {
        let said = r#"echo '{"version":9,"address":"unix:///s","protocol":"ttrpc"}'"#;
        let error = start_of(said, Timeouts::default()).await;
        assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error:?}");
    }

    /// Shims of containerd 2.3 read bootstrap parameters, and nothing else.
    #[tokio::test]
    async fn a_shim_of_the_next_generation_gets_what_it_reads() {
        // Field 1 is the id, field 2 the namespace; an Any has them too, but
        // not with these values.
        let script = r#"case "$*" in *start) ;; *) exit 0 ;; esac
            grep -q "^$(printf '\012\001')a.$(printf '%s' "$2")" || exit 1
            printf '\010\003\022\023unix:///nowhere/new\032\005ttrpc'"#;
        let error = start_of(script, Timeouts::default()).await;
        assert!(error.report().to_string().contains("unix:///nowhere/new"), "{error:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_program_is_an_error() {
        with_shim(Path::new("/bin/sh"), async |world: World| {
            let mut request = world.request("a", "true");
            request.runtime = world.script_shim("");
            fs::write(&request.runtime, [0x7f, b'E', b'L', b'F', 0, 0]).unwrap();
            let error = world.manager.create(request).await.err().unwrap();
            assert!(error.report().to_string().contains("containerd-shim-script-v1"));
            world
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_disk_is_resource_exhausted() {
        use nix::mount::{MsFlags, mount, umount};
        with_shim(Path::new("/bin/sh"), async |world: World| {
            let state = world.folder.path().join("state");
            fs::create_dir(&state).unwrap();
            mount(Some("t"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=32k")).unwrap();
            fs::write(state.join("filler"), vec![0; 28 * 1024]).unwrap();
            let mut request = world.request("a", "true");
            request.runtime = "/bin/sh".into();
            let mut config: serde_json::Value = serde_json::from_slice(&request.spec).unwrap();
            config["annotations"]["long"] = "x".repeat(64 * 1024).into();
            request.spec = serde_json::to_vec(&config).unwrap();
            let error = world.manager.create(request).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
            assert_eq!(names_in(&state.join(&world.namespace)), Vec::<String>::new());
            umount(&state).unwrap();
            world
        })
        .await;
    }

    #[tokio::test]
    async fn runtime_info_of_a_shim_that_does_not_know_it() {
        with_shim(Path::new("/bin/sh"), async |world: World| {
            let shim = world.script_shim("exit 2");
            let error = world.manager.runtime_info(&shim, None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
            // Name "x", version "1", revision "r" as protobuf.
            let shim = world.script_shim(r"printf '\012\001x\022\006\012\0011\022\001r'");
            let info = world.manager.runtime_info(&shim, None).await.unwrap();
            assert_eq!((&*info.name, &*info.version, &*info.revision), ("x", "1", "r"));
            world
        })
        .await;
    }
}
