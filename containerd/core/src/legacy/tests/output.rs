//! When ends are told.

use futures::FutureExt;

use super::{super::events::OUTPUT, *};
use crate::events::{By, Subscribe, Timestamp};

impl Fixture {
    fn start(&self, container: &str, pid: u32) {
        self.publish("/tasks/start", &TaskStart { container_id: container.into(), pid });
    }

    fn freeze(&self, container: &str) {
        self.publish("/tasks/paused", &TaskPaused { container_id: container.into() });
    }
}

/// What is told next.
async fn told<const N: usize>(events: &mut LegacyEvents) -> [(String, EventKind); N] {
    let mut told = Vec::new();
    while told.len() < N {
        let event = timeout(5 * OUTPUT, events.next()).await.unwrap().unwrap().unwrap();
        told.push((event.id.to_string(), event.kind));
    }
    told.try_into().unwrap()
}

fn of<const N: usize>(container: &str, kinds: [EventKind; N]) -> [(String, EventKind); N] {
    kinds.map(|kind| (container.to_owned(), kind))
}

/// Somebody has heard of the starts of `a` and `b`, as 7 and 8.
async fn served() -> (Fixture, Keeper, LegacyEvents) {
    let fixture = Fixture::new().await;
    let keeper = Keeper::prepare(fixture.legacy.clone()).await.serve();
    let mut events = fixture.legacy.subscribe("17".into()).await.unwrap();
    for (container, pid) in [("a", 7), ("b", 8)] {
        fixture.start(container, pid);
        assert_eq!(told(&mut events).await, of(container, [EventKind::StartContainer]));
    }
    (fixture, keeper, events)
}

#[tokio::test]
async fn ends_are_told_when_the_keeper_is_done_and_others_meanwhile() {
    let (fixture, keeper, mut events) = served().await;
    // What the keeper waits for.
    let lock = fixture.legacy.locks.hold(&id("a")).await;
    fixture.publish("/tasks/exit", &exit("a", 7, 3));
    fixture.freeze("a");
    fixture.start("a", 9);
    fixture.publish("/tasks/exit", &exit("a", 9, 4));
    fixture.freeze("b");
    fixture.publish("/tasks/exit", &exit("b", 8, 0));
    let others = of("b", [EventKind::UpdateContainer, EventKind::Exit]);
    assert_eq!(told(&mut events).await, others);
    // The keeper has heard of all by now.
    let mut late = fixture.legacy.subscribe("18".into()).await.unwrap();
    assert!(late.next().now_or_never().is_none());

    drop(lock);
    let kinds =
        [EventKind::Exit, EventKind::UpdateContainer, EventKind::StartContainer, EventKind::Exit];
    assert_eq!(told(&mut events).await, of("a", kinds));
    // What was published before it came and is told only now.
    assert_eq!(told(&mut late).await, of("a", [EventKind::Exit, EventKind::Exit]));
    keeper.shutdown().await;
}

/// It does not matter why the keeper is not done.
#[tokio::test(start_paused = true)]
async fn ends_are_told_in_the_end() {
    let (fixture, keeper, mut events) = served().await;
    let locks =
        [fixture.legacy.locks.hold(&id("a")).await, fixture.legacy.locks.hold(&id("b")).await];
    fixture.publish("/tasks/exit", &exit("a", 7, 3));
    let soon = OUTPUT - Duration::from_millis(1);
    timeout(soon, events.next()).await.unwrap_err();
    assert_eq!(told(&mut events).await, of("a", [EventKind::Exit]));

    // The daemon stops.
    fixture.publish("/tasks/exit", &exit("b", 8, 0));
    fixture.freeze("b");
    timeout(soon, events.next()).await.unwrap_err();
    fixture.events.close();
    let rest = of("b", [EventKind::Exit, EventKind::UpdateContainer]);
    assert_eq!(told(&mut events).await, rest);
    assert_eq!(events.next().await.unwrap(), None);
    drop((events, locks));
    keeper.shutdown().await;

    // So they are not told again.
    let journal = fixture.folder.path().join("journal");
    let next =
        Exchange::open(ExchangeConfig { journal, boot_replay: Duration::from_secs(3600) }).unwrap();
    next.serve();
    let by = By::Client("17".into());
    let mut again = next.subscribe(Subscribe { by, ..Subscribe::default() }).unwrap();
    assert!(again.next().now_or_never().is_none());
}

/// With its container the shim goes, which writes the output of all.
#[tokio::test]
async fn a_container_is_taken_away_after_what_was_added_to_it() {
    let fixture = Fixture::new().await;
    fixture.add("a", Vec::new()).await;
    let (legacy, a) = (&fixture.legacy, id("a"));
    let end = Happening::ExecEnded { exec: id("x"), ending: ending(8, 0, 9) };
    let added = legacy.ends.begin(&a, Timestamp::now(), end);
    let mut ended = Box::pin(legacy.ended(&a, ending(7, 0, 9)));
    timeout(Duration::from_millis(50), &mut ended).await.unwrap_err();
    assert!(legacy.record(&a).await.is_ok());
    drop(added);
    ended.await.unwrap();
    assert!(legacy.record(&a).await.unwrap_err().is_not_found());
}
