//! What the keeper makes of what it finds.

use super::*;

/// What clocks say does not matter.
#[tokio::test]
async fn unseen_is_what_came_before_clients_were_served() {
    let fixture = Fixture::with_replay(Duration::from_secs(1 << 30)).await;
    for name in ["before", "live"] {
        fixture.add(name, Vec::new()).await;
        fixture.publish("/tasks/start", &TaskStart { container_id: name.into(), pid: 7 });
    }
    fixture.publish("/tasks/exit", &exit("before", 7, 3));
    let legacy = &fixture.legacy;
    let keeper = Keeper::prepare(legacy.clone()).await.serve();
    let marked = legacy.record(&id("before")).await.unwrap().exit.unwrap();
    assert_eq!((marked.pid, marked.status), (7, 3));
    // The one without an end is no more. One that ends now was seen, although
    // that was in 1970; an end that is told late was not.
    assert!(legacy.record(&id("live")).await.unwrap_err().is_not_found());
    fs::remove_dir(fixture.folder.path().join("live")).unwrap();
    fixture.add("live", Vec::new()).await;
    legacy.ended(&id("live"), ending(8, 0, 1)).await.unwrap();
    assert!(legacy.record(&id("live")).await.unwrap_err().is_not_found());
    legacy.ended(&id("before"), ending(7, 3, 1)).await.unwrap();
    assert_eq!(legacy.record(&id("before")).await.unwrap().exit, Some(marked));
    keeper.shutdown().await;
}

#[tokio::test]
async fn what_could_not_be_put_in_order_keeps_how_it_ended() {
    let fixture = Fixture::new().await;
    fixture.add("a", Vec::new()).await;
    assert!(fixture.legacy.unseen.hear(&id("a"), Happening::Ended(ending(7, 3, 9))));
    fixture.legacy.unseen.serve();
    fixture.legacy.look_again(&id("a"));
    fixture.legacy.look_again(&id("a"));
    let again: Vec<_> = fixture.legacy.take_again().collect();
    assert_eq!(again, [id("a")]);
    fixture.legacy.look(&again[0]).await.unwrap();
    let record = fixture.legacy.record(&id("a")).await.unwrap();
    assert_eq!(record.exit, Some(ending(7, 3, 9)));
    assert!(fixture.legacy.take_again().next().is_none());
}

/// Their shim died while there was no daemon.
#[tokio::test]
async fn ends_are_told_of_what_no_task_is_left_of() {
    let fixture = Fixture::with_replay(Duration::from_secs(1 << 30)).await;
    let spec = ProcessSpec { args: vec!["true".into()], ..ProcessSpec::default() };
    fixture.add("a", vec![record::process(&id("x"), &spec).unwrap()]).await;
    fixture.publish("/tasks/start", &TaskStart { container_id: "a".into(), pid: 7 });
    let (container_id, exec_id) = ("a".to_owned(), "x".to_owned());
    let added = TaskExecAdded { container_id: "a".into(), exec_id: "x".into() };
    fixture.publish("/tasks/exec-added", &added);
    fixture.publish("/tasks/exec-started", &TaskExecStarted { container_id, exec_id, pid: 8 });
    fixture.publish("/tasks/exit", &TaskExit { id: "x".into(), ..exit("a", 8, 137) });
    fixture.publish("/tasks/exit", &exit("a", 7, 137));
    let prepared = Keeper::prepare(fixture.legacy.clone()).await;
    assert!(fixture.legacy.record(&id("a")).await.unwrap().exit.is_some());
    fixture.publish("/tasks/exit", &exit("b", 9, 0));
    let keeper = prepared.serve();
    // The keeper has not got to run since.
    assert_eq!(fixture.legacy.unseen.of(&id("b"), None).unwrap().pid, 9);
    for _ in 0..2 {
        let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
        for (kind, pid) in [(EventKind::ExecExit, 8), (EventKind::Exit, 7)] {
            let event = events.next().await.unwrap().unwrap();
            assert_eq!((event.kind, event.pid, event.status), (kind, pid, 137));
        }
    }
    keeper.shutdown().await;
}

/// Its shim may have been slow, and the daemon that was told to start it is no
/// more.
#[tokio::test]
async fn whose_start_has_failed_is_ended_whatever_it_does() {
    let fixture = Fixture::new().await;
    let legacy = &fixture.legacy;
    let spec = ProcessSpec { args: vec!["true".into()], ..ProcessSpec::default() };
    let process = |exec| record::process(&id(exec), &spec).unwrap();
    let ended = record::exit(ending(7, 3, 9)).unwrap();
    fixture.add("a", vec![ended, process("x"), process("y")]).await;
    for exec in ["x", "y"] {
        legacy.unseen.found(&id("a"), Some(&id(exec)), ending(8, 0, 9));
    }
    let exec = legacy.target(&id("a"), Some(id("x")));
    legacy.unwant(&exec).await.unwrap();
    legacy.look(&id("a")).await.unwrap();
    let record = legacy.record(&id("a")).await.unwrap();
    assert_eq!(record.processes.keys().collect::<Vec<_>>(), [&id("y")]);
    assert!(!record.is_unwanted(Some(&id("x"))) && record.exit.is_some());

    let init = legacy.target(&id("a"), None);
    legacy.unwant(&init).await.unwrap();
    let keeper = Keeper::prepare(legacy.clone()).await.serve();
    assert!(legacy.record(&id("a")).await.unwrap_err().is_not_found());
    legacy.unwant(&init).await.unwrap();
    keeper.shutdown().await;
}
