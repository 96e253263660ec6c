//! When ends are told.

use super::*;

impl Fixture {
    /// A process that subscribers have heard of already.
    async fn start(&self, events: &mut LegacyEvents, container: &str, exec: &str, pid: u32) {
        let (container_id, exec_id) = (container.to_owned(), exec.to_owned());
        if exec.is_empty() {
            self.publish("/tasks/start", &TaskStart { container_id, pid });
        } else {
            self.publish("/tasks/exec-started", &TaskExecStarted { container_id, exec_id, pid });
        }
        assert_eq!(next(events, 1).await.len(), 1);
    }

    fn end(&self, container: &str, process: &str, pid: u32) {
        let end = TaskExit { id: process.into(), ..exit(container, pid, 0) };
        self.publish("/tasks/exit", &end);
    }

    fn freeze(&self, container: &str) {
        self.publish("/tasks/paused", &TaskPaused { container_id: container.into() });
    }
}

/// What is told next, as in [`told`].
async fn next(events: &mut LegacyEvents, count: usize) -> Vec<(String, EventKind, u32)> {
    let mut told = Vec::new();
    while told.len() < count {
        let event = events.next().await.unwrap().unwrap();
        told.push((event.id.to_string(), event.kind, event.pid));
    }
    told
}

/// What is told now, as container, kind and pid.
async fn told(events: &mut LegacyEvents) -> Vec<(String, EventKind, u32)> {
    let mut told = Vec::new();
    // Time is paused, and goes on when there is nothing else to do.
    while let Ok(next) = timeout(Duration::from_millis(1), events.next()).await {
        let Some(event) = next.unwrap() else { break };
        told.push((event.id.to_string(), event.kind, event.pid));
    }
    told
}

fn of<const N: usize>(
    container: &str,
    events: [(EventKind, u32); N],
) -> Vec<(String, EventKind, u32)> {
    events.into_iter().map(|(kind, pid)| (container.to_owned(), kind, pid)).collect()
}

/// Time is not paused: it would go on while the database works.
#[tokio::test]
async fn ends_are_told_when_processes_are_taken_away_and_others_meanwhile() {
    let fixture = Fixture::new().await;
    let spec = ProcessSpec { args: vec!["true".into()], ..ProcessSpec::default() };
    let process = record::process(&id("x"), &spec).unwrap();
    fixture.add("a", vec![process]).await;
    let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
    for (container, exec, pid) in [("a", "", 7), ("a", "x", 8), ("b", "", 9)] {
        fixture.start(&mut events, container, exec, pid).await;
    }
    fixture.end("a", "x", 8);
    fixture.freeze("a");
    fixture.end("a", "a", 7);
    fixture.freeze("b");
    fixture.end("b", "b", 9);
    let others = of("b", [(EventKind::UpdateContainer, 0), (EventKind::Exit, 9)]);
    assert_eq!(next(&mut events, 2).await, others);

    let exec = fixture.legacy.target(&id("a"), Some(id("x")));
    fixture.legacy.forget_process(&exec).await.unwrap();
    let exec = of("a", [(EventKind::ExecExit, 8), (EventKind::UpdateContainer, 0)]);
    assert_eq!(next(&mut events, 2).await, exec);
    fixture.freeze("b");
    let other = of("b", [(EventKind::UpdateContainer, 0)]);
    assert_eq!(next(&mut events, 1).await, other);
    fixture.legacy.ended(&id("a"), ending(7, 0, 9)).await.unwrap();
    assert_eq!(next(&mut events, 1).await, of("a", [(EventKind::Exit, 7)]));
}

/// It does not matter why a process is not taken away, nor how many are not.
#[tokio::test(start_paused = true)]
async fn ends_are_told_in_the_end() {
    let fixture = Fixture::new().await;
    let spec = ProcessSpec { args: vec!["true".into()], ..ProcessSpec::default() };
    let process = |exec| record::process(&id(exec), &spec).unwrap();
    fixture.add("a", vec![process("x"), process("y"), process("z")]).await;
    let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
    for (exec, pid) in [("", 7), ("x", 8), ("y", 9), ("z", 10)] {
        fixture.start(&mut events, "a", exec, pid).await;
    }
    fixture.end("a", "x", 8);
    fixture.end("a", "y", 9);
    fixture.end("a", "a", 7);
    assert_eq!(told(&mut events).await, []);
    tokio::time::sleep(events::OUTPUT).await;
    let ends = [(EventKind::ExecExit, 8), (EventKind::ExecExit, 9), (EventKind::Exit, 7)];
    assert_eq!(told(&mut events).await, of("a", ends));

    // The daemon stops.
    fixture.end("a", "z", 10);
    fixture.freeze("a");
    assert_eq!(told(&mut events).await, []);
    fixture.events.close();
    let rest = [(EventKind::ExecExit, 10), (EventKind::UpdateContainer, 0)];
    assert_eq!(told(&mut events).await, of("a", rest));
    assert_eq!(events.next().await.unwrap(), None);
}

/// Nobody here takes them away.
#[tokio::test(start_paused = true)]
async fn ends_of_others_are_told_at_once() {
    let fixture = Fixture::new().await;
    fixture.containers.create(&id("legacy"), container("other")).await.unwrap();
    let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
    fixture.start(&mut events, "other", "", 7).await;
    fixture.end("other", "other", 7);
    assert_eq!(told(&mut events).await, of("other", [(EventKind::Exit, 7)]));

    // Its container is no more, and another has its name.
    fixture.add("a", Vec::new()).await;
    fixture.start(&mut events, "a", "", 8).await;
    let before = TaskExit { exited_at: Some(UNIX_EPOCH.into()), ..exit("a", 8, 0) };
    fixture.publish("/tasks/exit", &before);
    assert_eq!(told(&mut events).await, of("a", [(EventKind::Exit, 8)]));
}
