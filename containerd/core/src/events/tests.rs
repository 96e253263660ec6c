//! The exchange as publishers, subscribers and a restart see it.

use std::{path::Path, sync::Arc, time::Duration};

use futures::FutureExt;
use runtime_v2::Any;
use shim_protocol::{ErrorKind, Id};

use super::{
    By, Envelope, Exchange, ExchangeConfig, Subscribe, Subscription, Timestamp,
    ledger::{Ended, Step},
    translate,
};

const LONG: Duration = Duration::from_secs(3600);

fn boot(folder: &Path, boot_replay: Duration) -> Arc<Exchange> {
    Exchange::open(ExchangeConfig { journal: folder.to_owned(), boot_replay }).unwrap()
}

/// One that serves.
fn open(folder: &Path, boot_replay: Duration) -> Arc<Exchange> {
    let exchange = boot(folder, boot_replay);
    exchange.serve();
    exchange
}

fn subscribe(exchange: &Arc<Exchange>, by: By) -> Subscription {
    exchange.subscribe(Subscribe { by, ..Default::default() }).unwrap()
}

fn client(name: &str) -> By {
    By::Client(name.to_owned())
}

/// Needs time that is paused.
async fn wait_in_vain(subscription: &mut Subscription) {
    tokio::time::timeout(LONG, subscription.next()).await.unwrap_err();
}

fn publish(exchange: &Exchange, topic: &str) {
    exchange.publish(&namespace(), topic, Any::default()).unwrap();
}

/// The topics that are there now.
async fn heard(exchange: &Arc<Exchange>, subscription: &mut Subscription) -> Vec<String> {
    drain(exchange, subscription).await.iter().map(|event| event.topic.clone()).collect()
}

fn namespace() -> Id {
    Id::new("namespace", "default").unwrap()
}

/// What a shim sends.
fn envelope(container: &str, step: &Step, sent: u64) -> Envelope {
    let (topic, event) = translate::message(container, step).unwrap();
    let timestamp = Timestamp::from_nanos(sent);
    Envelope { timestamp, namespace: namespace(), topic: topic.into(), event }
}

fn exit(pid: u32) -> Step {
    Step::Exit(Ended { pid, status: 3, at: Timestamp::from_nanos(77) })
}

fn delete(pid: u32) -> Step {
    Step::Delete(Ended { pid, status: 3, at: Timestamp::from_nanos(77) })
}

/// The next `count` events' topics.
async fn topics(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(subscription.next().await.unwrap().unwrap().topic.clone());
    }
    topics
}

/// Everything there is now. A marker is published behind it, so that nothing is
/// waited for in vain; markers are left out.
async fn drain(exchange: &Arc<Exchange>, subscription: &mut Subscription) -> Vec<Arc<Envelope>> {
    exchange.publish(&namespace(), "/marker", Any::default()).unwrap();
    let last = exchange.last();
    let mut events = Vec::new();
    loop {
        let event = subscription.next().await.unwrap().unwrap();
        if event.timestamp == last {
            return events;
        }
        if event.topic != "/marker" {
            events.push(event);
        }
    }
}

#[tokio::test]
async fn subscribers_hear_what_passes_their_filters() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    let subscribe = |filters: &[&str]| {
        let filters = filters.iter().map(|f| (*f).to_owned()).collect();
        exchange.subscribe(Subscribe { filters, ..Default::default() })
    };
    let mut all = subscribe(&[]).unwrap();
    let mut by_field = subscribe(&["event.container_id==b"]).unwrap();
    let mut by_topic = subscribe(&["topic~=\"/exit$\"", "namespace==other"]).unwrap();
    assert_eq!(subscribe(&["="]).err().unwrap().kind(), ErrorKind::InvalidArgument);
    exchange.forward(envelope("a", &exit(1), 1)).unwrap();
    exchange.forward(envelope("b", &exit(2), 2)).unwrap();
    let life = ["/tasks/create", "/tasks/start", "/tasks/exit"];
    assert_eq!(topics(&mut all, 6).await, [life, life].concat());
    assert_eq!(topics(&mut by_field, 3).await, life);
    assert_eq!(topics(&mut by_topic, 2).await, ["/tasks/exit", "/tasks/exit"]);
    exchange.close();
    assert_eq!(all.next().await.unwrap(), None);
    assert_eq!(by_topic.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_subscriber_that_waits_is_woken() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    let mut subscription = exchange.subscribe(Subscribe::default()).unwrap();
    let waiting = tokio::spawn(async move { subscription.next().await.unwrap() });
    tokio::task::yield_now().await;
    exchange.publish(&namespace(), "/custom/topic", Any::default()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().topic, "/custom/topic");
}

#[tokio::test]
async fn bad_envelopes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    let big = Any { type_url: String::new(), value: vec![0; 2 << 20] };
    for refused in [
        exchange.publish(&namespace(), "no-slash", Any::default()),
        exchange.publish(&namespace(), "/big", big),
        exchange.forward(envelope("a", &exit(1), 0)),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

/// A subscriber that names its position gets everything once, over any number
/// of deaths of the daemon at any moment.
#[tokio::test]
async fn resuming_over_restarts_gives_each_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let script: Vec<Envelope> = (1..40u32)
        .flat_map(|pid| {
            let steps = [Step::Create { pid }, Step::Start { pid }, exit(pid), delete(pid)];
            (1..).zip(steps).map(move |(n, step)| envelope("a", &step, u64::from(pid) * 10 + n))
        })
        .collect();
    let (mut heard, mut position) = (Vec::new(), Timestamp::ZERO);
    for (index, event) in script.iter().enumerate() {
        // Each "daemon" ends without a word. The one before had taken this
        // event too, but its answer did not reach the shim.
        let exchange = open(folder.path(), LONG);
        if index > 0 {
            exchange.forward(script[index - 1].clone()).unwrap();
        }
        exchange.forward(event.clone()).unwrap();
        if index % 3 == 0 {
            let request = Subscribe { after: Some(position), ..Default::default() };
            let mut subscription = exchange.subscribe(request).unwrap();
            for event in drain(&exchange, &mut subscription).await {
                assert!(event.timestamp > position);
                position = event.timestamp;
                heard.push((event.topic.clone(), event.event.clone()));
            }
        }
    }
    let sent: Vec<_> = script.into_iter().map(|e| (e.topic, e.event)).collect();
    assert_eq!(heard, sent[..heard.len()]);
    assert!(heard.len() >= sent.len() - 3);
}

#[tokio::test(start_paused = true)]
async fn what_happened_since_boot_is_told_to_each_client_once() {
    let folder = tempfile::tempdir().unwrap();
    publish(&open(folder.path(), Duration::ZERO), "/before");
    let exchange = boot(folder.path(), LONG);
    publish(&exchange, "/boot");
    let mut ours = subscribe(&exchange, By::Daemon { since_boot: true });
    exchange.serve();
    publish(&exchange, "/served");
    let mut first = subscribe(&exchange, client("17 a"));
    // Another stream of the same process.
    let mut second = subscribe(&exchange, client("17 a"));
    let mut anonymous = subscribe(&exchange, By::Anybody);
    for subscription in [&mut ours, &mut first, &mut second] {
        assert_eq!(heard(&exchange, subscription).await, ["/boot", "/served"]);
    }
    assert_eq!(heard(&exchange, &mut anonymous).await, [""; 0]);
    // It has taken them, and comes again.
    assert_eq!(heard(&exchange, &mut first).await, [""; 0]);
    wait_in_vain(&mut first).await;
    drop(first);
    publish(&exchange, "/gone");
    let mut first = subscribe(&exchange, client("17 a"));
    assert_eq!(heard(&exchange, &mut first).await, ["/gone"]);

    let exchange = open(folder.path(), Duration::ZERO);
    publish(&exchange, "/early");
    let mut late = subscribe(&exchange, client("17 a"));
    assert_eq!(heard(&exchange, &mut late).await, [""; 0], "not after the time is over");
}

/// Its connection broke before it had heard anything.
#[tokio::test]
async fn a_client_that_has_asked_in_vain_may_ask_again() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    publish(&exchange, "/boot");
    drop(subscribe(&exchange, client("17")));
    let mut again = subscribe(&exchange, client("17"));
    assert_eq!(heard(&exchange, &mut again).await, ["/boot"]);
}

/// What was journaled when the daemon died and had reached no client is told to
/// those that come back and cannot say what they have seen.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_daemon_had_no_time_to_deliver_is_told_after_boot() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), Duration::ZERO);
    publish(&exchange, "/nobody/listens");
    let mut fast = subscribe(&exchange, client("17"));
    let mut slow = subscribe(&exchange, client("18"));
    let mut anonymous = subscribe(&exchange, By::Anybody);
    let mut ours = subscribe(&exchange, By::Daemon { since_boot: false });
    for topic in ["/a", "/b", "/c"] {
        publish(&exchange, topic);
    }
    assert_eq!(topics(&mut fast, 3).await, ["/a", "/b", "/c"]);
    wait_in_vain(&mut fast).await;
    assert_eq!(topics(&mut anonymous, 2).await, ["/a", "/b"]);
    assert_eq!(topics(&mut slow, 1).await, ["/a"]);
    publish(&exchange, "/d");
    assert_eq!(topics(&mut ours, 4).await, ["/a", "/b", "/c", "/d"]);
    wait_in_vain(&mut ours).await;
    // Whether that has reached it is not known yet.
    assert_eq!(topics(&mut fast, 1).await, ["/d"]);
    assert!(fast.next().now_or_never().is_none());
    // Killed: nobody leaves.
    drop(exchange);
    drop((fast, slow, anonymous, ours));

    let exchange = boot(folder.path(), LONG);
    publish(&exchange, "/e");
    exchange.serve();
    for (name, expected) in
        [("17", &["/d", "/e"][..]), ("18", &["/a", "/b", "/c", "/d", "/e"]), ("19", &["/d", "/e"])]
    {
        let mut subscription = subscribe(&exchange, client(name));
        assert_eq!(heard(&exchange, &mut subscription).await, expected, "{name}");
    }
}

/// Who has an event and has not told it yet has not taken it.
#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_told_after_boot() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), Duration::ZERO);
    let mut told = subscribe(&exchange, client("17"));
    let mut held = subscribe(&exchange, client("18"));
    for topic in ["/a", "/b", "/c"] {
        publish(&exchange, topic);
    }
    for subscription in [&mut told, &mut held] {
        assert_eq!(topics(subscription, 1).await, ["/a"]);
        let b = subscription.next().await.unwrap().unwrap();
        subscription.hold_back(Some(b.timestamp));
        assert_eq!(topics(subscription, 1).await, ["/c"]);
        wait_in_vain(subscription).await;
    }
    told.hold_back(None);
    wait_in_vain(&mut told).await;
    drop(exchange);
    drop((told, held));

    let exchange = boot(folder.path(), LONG);
    exchange.serve();
    for (name, expected) in [("17", &[][..]), ("18", &["/b", "/c"])] {
        let mut subscription = subscribe(&exchange, client(name));
        assert_eq!(heard(&exchange, &mut subscription).await, expected, "{name}");
    }
}

/// What is published while clients cannot be there is for them all the same,
/// however many daemons it takes until they can.
#[tokio::test]
async fn what_comes_while_nobody_can_listen_is_told_later() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), Duration::ZERO);
    let mut subscription = subscribe(&exchange, client("17"));
    publish(&exchange, "/heard");
    assert_eq!(topics(&mut subscription, 1).await, ["/heard"]);
    exchange.close();
    assert_eq!(subscription.next().await.unwrap(), None);
    drop(subscription);
    publish(&exchange, "/draining");
    drop(exchange);

    // Killed before it serves, and the next one before anybody has come.
    publish(&boot(folder.path(), LONG), "/boot");
    publish(&open(folder.path(), LONG), "/served");

    let exchange = boot(folder.path(), Duration::ZERO);
    // A boot takes longer than the time for coming back.
    publish(&exchange, "/slow/boot");
    let mut early = subscribe(&exchange, client("17"));
    let mut unknown = subscribe(&exchange, client("18"));
    exchange.serve();
    let all = ["/draining", "/boot", "/served", "/slow/boot"];
    assert_eq!(heard(&exchange, &mut early).await, all);
    assert_eq!(heard(&exchange, &mut unknown).await, all);
    // Whoever leaves a daemon that lives is not waited for.
    drop((early, unknown));
    publish(&exchange, "/alone");
    let exchange = open(folder.path(), LONG);
    let mut subscription = subscribe(&exchange, client("17"));
    assert_eq!(heard(&exchange, &mut subscription).await, [""; 0]);
}

#[tokio::test]
async fn a_subscriber_that_is_too_slow_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    let mut slow = exchange.subscribe(Subscribe::default()).unwrap();
    for _ in 0..5000 {
        exchange.publish(&namespace(), "/many", Any::default()).unwrap();
    }
    assert_eq!(slow.next().await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    let after = Some(Timestamp::from_nanos(1));
    let resumed = exchange.subscribe(Subscribe { after, ..Default::default() });
    assert_eq!(resumed.err().unwrap().kind(), ErrorKind::OutOfRange);
    // What was let go is not there after a restart either.
    let exchange = open(folder.path(), LONG);
    let resumed = exchange.subscribe(Subscribe { after, ..Default::default() });
    assert_eq!(resumed.err().unwrap().kind(), ErrorKind::OutOfRange);
}

#[tokio::test]
async fn a_position_in_the_future_is_now() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    let after = Some(Timestamp::from_nanos(u64::MAX));
    let mut subscription = exchange.subscribe(Subscribe { after, ..Default::default() }).unwrap();
    assert_eq!(drain(&exchange, &mut subscription).await, []);
}

#[tokio::test]
async fn tasks_that_an_earlier_daemon_left_and_are_gone_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    for (pid, container) in [(1, "kept"), (2, "gone"), (3, "replaced")] {
        exchange.forward(envelope(container, &Step::Create { pid }, pid.into())).unwrap();
    }
    let exchange = open(folder.path(), LONG);
    exchange.forward(envelope("replaced", &delete(3), 4)).unwrap();
    exchange.forward(envelope("replaced", &Step::Create { pid: 4 }, 5)).unwrap();
    exchange.forward(envelope("new", &Step::Create { pid: 5 }, 6)).unwrap();
    let mut subscription = exchange.subscribe(Subscribe::default()).unwrap();
    assert_eq!(exchange.close_inherited(|_, id| id.as_str() == "kept"), 1);
    assert_eq!(exchange.close_inherited(|_, id| id.as_str() == "kept"), 0);
    let heard = topics(&mut subscription, 3).await;
    assert_eq!(heard, ["/tasks/start", "/tasks/exit", "/tasks/delete"]);
    exchange.forward(envelope("gone", &exit(2), 7)).unwrap();
    assert_eq!(drain(&exchange, &mut subscription).await, [], "late, and announced already");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_fails_delays_nobody_and_is_caught_up_with() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = open(folder.path(), LONG);
    let keeper = tokio::spawn({
        let exchange = exchange.clone();
        async move { exchange.keep_up().await }
    });
    let mut subscription = exchange.subscribe(Subscribe::default()).unwrap();
    // Neither the journal can be written, nor another in its place.
    exchange.break_journal();
    let aside = folder.path().join("aside");
    std::fs::create_dir(&aside).unwrap();
    exchange.forward(envelope("a", &exit(1), 1)).unwrap();
    assert_eq!(topics(&mut subscription, 3).await.len(), 3);
    tokio::time::sleep(LONG).await;
    assert!(exchange.is_behind());
    std::fs::remove_dir(&aside).unwrap();
    // No further event is needed for it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!exchange.is_behind());
    exchange.publish(&namespace(), "/after", Any::default()).unwrap();
    keeper.abort();

    let exchange = open(folder.path(), LONG);
    let request = Subscribe { after: Some(Timestamp::ZERO), ..Default::default() };
    let mut subscription = exchange.subscribe(request).unwrap();
    let life = ["/tasks/create", "/tasks/start", "/tasks/exit", "/after"];
    assert_eq!(topics(&mut subscription, 4).await, life);
}

#[tokio::test]
async fn a_journal_that_cannot_be_compacted_is_no_reason_not_to_boot() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), LONG).forward(envelope("a", &exit(1), 1)).unwrap();
    std::fs::create_dir(folder.path().join("aside")).unwrap();
    for _ in 0..2 {
        let exchange = open(folder.path(), LONG);
        exchange.forward(envelope("a", &exit(1), 1)).unwrap();
        let request = Subscribe { after: Some(Timestamp::ZERO), ..Default::default() };
        let mut subscription = exchange.subscribe(request).unwrap();
        assert_eq!(drain(&exchange, &mut subscription).await.len(), 3);
    }
}
