//! Brings the outbox to the daemon, one event at a time, until it has each.

use std::time::Duration;

use async_trait::async_trait;
use shim_protocol::{ErrorKind, Result, proto::events_ttrpc::ForwardRequest};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, error};

use super::outbox::{Outbox, Progress};

/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause: what a daemon that came back waits at most, unless it kicks.
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// A connection that is not used for so long is closed: a daemon with hundreds
/// of shims has better uses for its memory.
const IDLE: Duration = Duration::from_secs(2);

/// Somebody who takes events, if it is there.
#[async_trait]
pub trait Daemon: Send + Sync {
    /// An open way to it.
    type Connection: Connection;
    /// Connects.
    ///
    /// # Errors
    /// `Unavailable` when it is not there now.
    async fn connect(&self) -> Result<Self::Connection>;

    /// False when nobody can ever listen where it was.
    fn may_come_back(&self) -> bool;
}

/// An open way to the daemon.
#[async_trait]
pub trait Connection: Send + Sync {
    /// Hands over one event; success means that the daemon is now responsible.
    ///
    /// # Errors
    /// `InvalidArgument` when the daemon will never take it, `Unimplemented`
    /// when it takes no events at all, all else when trying again may help.
    async fn forward(&self, event: &ForwardRequest) -> Result<()>;
}

/// Delivers until the outbox is closed, and either empty or without a daemon
/// that could come back.
pub async fn run(outbox: &Outbox, daemon: &impl Daemon) {
    let mut progress = outbox.progress();
    let mut connection = None;
    let mut pause = FIRST_PAUSE;
    let mut refused = false;
    loop {
        let Progress { kicks, closed, .. } = *progress.borrow_and_update();
        let Some(event) = outbox.oldest() else {
            if closed {
                return;
            }
            if timeout(IDLE, something_to_do(&mut progress)).await.is_err() {
                connection = None;
                something_to_do(&mut progress).await;
            }
            continue;
        };
        match forward(daemon, &mut connection, &event).await {
            Ok(()) => {
                outbox.taken();
                (pause, refused) = (FIRST_PAUSE, false);
            }
            // It would be refused for ever, and all others wait behind it. A daemon that
            // takes no events at all knows the containers by asking; Go's shim drops
            // events too.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidArgument | ErrorKind::Unimplemented) => {
                if !std::mem::replace(&mut refused, true) {
                    error!("daemon refuses {} event: {}", event.envelope.topic, e.report());
                }
                outbox.taken();
            }
            Err(e) => {
                debug!("deliver {} event: {}", event.envelope.topic, e.report());
                connection = None;
                if closed && !daemon.may_come_back() {
                    error!("nobody is left who could take the last events");
                    return;
                }
                let kicked = progress.wait_for(|now| now.kicks != kicks);
                pause = match timeout(pause, kicked).await {
                    Ok(_) => FIRST_PAUSE,
                    Err(_) => LAST_PAUSE.min(pause * 2),
                };
            }
        }
    }
}

async fn something_to_do(progress: &mut watch::Receiver<Progress>) {
    // Fails only without a sender, and the outbox has it.
    let _ = progress.wait_for(|now| !now.is_empty() || now.closed).await;
}

async fn forward<D: Daemon>(
    daemon: &D,
    connection: &mut Option<D::Connection>,
    event: &ForwardRequest,
) -> Result<()> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(daemon.connect().await?),
    };
    open.forward(event).await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use shim_protocol::{Error, Id, any, proto::task_events::TaskExit};

    use super::*;

    /// What a stub answers to one connect or forward.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Answer {
        Good,
        Broken,
        /// The daemon took it, but died before it could say so.
        TakenThenBroken,
        Refused(ErrorKind),
    }
    use Answer::*;

    /// A daemon that answers by a script, and well after its end.
    #[derive(Clone, Default)]
    struct Stub(Arc<Mutex<Script>>);

    #[derive(Default)]
    struct Script {
        connects: Vec<Answer>,
        forwards: Vec<Answer>,
        connected: usize,
        taken: Vec<u32>,
        gone: bool,
    }

    fn next(script: &mut Vec<Answer>) -> Answer {
        if script.is_empty() { Good } else { script.remove(0) }
    }

    #[async_trait]
    impl Daemon for Stub {
        type Connection = Stub;
        async fn connect(&self) -> Result<Stub> {
            let mut script = self.0.lock().unwrap();
            script.connected += 1;
            match next(&mut script.connects) {
                Good => Ok(self.clone()),
                _ => Err(Error::unavailable("away")),
            }
        }

        fn may_come_back(&self) -> bool {
            !self.0.lock().unwrap().gone
        }
    }

    #[async_trait]
    impl Connection for Stub {
        async fn forward(&self, event: &ForwardRequest) -> Result<()> {
            let mut script = self.0.lock().unwrap();
            let pid = any::unpack::<TaskExit>(&event.envelope.event)?.pid;
            let answer = next(&mut script.forwards);
            if matches!(answer, Good | TakenThenBroken) {
                script.taken.push(pid);
            }
            match answer {
                Good => Ok(()),
                Refused(kind) => Err(Error::new(kind, "no")),
                _ => Err(Error::unavailable("gone")),
            }
        }
    }

    fn outbox(pids: std::ops::Range<u32>) -> Outbox {
        let outbox = Outbox::new(Id::new("namespace", "ns").unwrap());
        for pid in pids {
            outbox.publish(&TaskExit { pid, ..Default::default() }).unwrap();
        }
        outbox
    }

    async fn deliver(outbox: &Outbox, connects: &[Answer], forwards: &[Answer]) -> Stub {
        let stub = Stub::default();
        stub.0.lock().unwrap().connects = connects.to_vec();
        stub.0.lock().unwrap().forwards = forwards.to_vec();
        outbox.close();
        run(outbox, &stub).await;
        stub
    }

    #[tokio::test(start_paused = true)]
    async fn all_in_order_over_one_connection() {
        let stub = deliver(&outbox(0..20), &[], &[]).await;
        let script = stub.0.lock().unwrap();
        assert_eq!(script.taken, (0..20).collect::<Vec<_>>());
        assert_eq!(script.connected, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_long_away_gets_all_of_them() {
        let stub = deliver(&outbox(0..3), &[Broken; 1000], &[]).await;
        assert_eq!(stub.0.lock().unwrap().taken, [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_daemon_to_come_delivery_ends_but_not_before_the_end() {
        let outbox = Arc::new(outbox(0..2));
        let stub = Stub::default();
        stub.0.lock().unwrap().connects = vec![Broken; 1000];
        stub.0.lock().unwrap().gone = true;
        let delivery = tokio::spawn({
            let (outbox, stub) = (outbox.clone(), stub.clone());
            async move { run(&outbox, &stub).await }
        });
        // Containers may live on, and somebody may name another daemon.
        tokio::time::sleep(LAST_PAUSE * 10).await;
        assert!(!delivery.is_finished());
        outbox.close();
        delivery.await.unwrap();
        assert!(stub.0.lock().unwrap().taken.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_break_at_each_event_repeats_only_that_event() {
        for at in 0..3 {
            for broken in [Broken, TakenThenBroken] {
                let mut answers = [Good; 3];
                answers[at] = broken;
                let stub = deliver(&outbox(0..3), &[], &answers).await;
                let mut script = stub.0.lock().unwrap();
                let repeated = script.taken.len() - 3;
                assert_eq!(repeated, usize::from(broken == TakenThenBroken));
                script.taken.dedup();
                assert_eq!(script.taken, [0, 1, 2], "{broken:?} at {at}");
                assert_eq!(script.connected, 2);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_event_does_not_stop_the_others() {
        for kind in [ErrorKind::InvalidArgument, ErrorKind::Unimplemented] {
            let stub = deliver(&outbox(0..3), &[], &[Good, Refused(kind)]).await;
            let script = stub.0.lock().unwrap();
            assert_eq!((script.taken.as_slice(), script.connected), (&[0, 2][..], 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kick_ends_the_pause() {
        let outbox = Arc::new(outbox(0..1));
        let stub = Stub::default();
        stub.0.lock().unwrap().connects = vec![Broken; 100];
        let delivery = tokio::spawn({
            let (outbox, stub) = (outbox.clone(), stub.clone());
            async move { run(&outbox, &stub).await }
        });
        // Long enough for the longest pause to be reached.
        tokio::time::sleep(Duration::from_secs(30)).await;
        stub.0.lock().unwrap().connects.clear();
        let before = tokio::time::Instant::now();
        assert_eq!(outbox.flush().await, 1);
        assert!(before.elapsed() < FIRST_PAUSE);
        outbox.close();
        delivery.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed() {
        let outbox = Arc::new(outbox(0..1));
        let stub = Stub::default();
        let delivery = tokio::spawn({
            let (outbox, stub) = (outbox.clone(), stub.clone());
            async move { run(&outbox, &stub).await }
        });
        outbox.flush().await;
        tokio::time::sleep(IDLE * 2).await;
        // This one, and the one inside the task.
        assert_eq!(Arc::strong_count(&stub.0), 2);
        outbox.publish(&TaskExit { pid: 1, ..Default::default() }).unwrap();
        outbox.flush().await;
        assert_eq!(stub.0.lock().unwrap().connected, 2);
        outbox.close();
        delivery.await.unwrap();
    }
}
