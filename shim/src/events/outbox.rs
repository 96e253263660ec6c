//! The queue between what happens and a daemon that may be away.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use protobuf::{MessageField, well_known_types::timestamp::Timestamp};
use shim_protocol::{
    Id, Result, any,
    event::TaskEvent,
    proto::{events_ttrpc::ForwardRequest, task_events::TaskOOM, types::Envelope},
};
use tokio::sync::watch;

/// Events in order of publication, each kept until the daemon has
/// acknowledged it, however long that takes, or has refused it for good.
///
/// What is queued while the daemon is away is bounded by what the containers
/// can do on their own: each process ends once, and out-of-memory events of a
/// container are not queued twice.
pub struct Outbox {
    namespace: Id,
    queue: Mutex<VecDeque<ForwardRequest>>,
    progress: watch::Sender<Progress>,
}

/// How far the outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events that were ever published.
    pub published: u64,
    /// Of these, the events that the daemon has taken or refused for good.
    pub taken: u64,
    /// No more will be published.
    pub closed: bool,
    /// Counts the reasons to believe that the daemon is there.
    pub kicks: u64,
}

impl Progress {
    /// Nothing is left to deliver.
    pub fn is_empty(&self) -> bool {
        self.published == self.taken
    }
}

impl Outbox {
    /// An empty outbox for the events of one namespace.
    pub fn new(namespace: Id) -> Self {
        Self { namespace, queue: Mutex::default(), progress: watch::Sender::default() }
    }

    /// The namespace of all events here.
    pub fn namespace(&self) -> &Id {
        &self.namespace
    }

    /// Queues an event. Its time is now: time of publication, not of delivery.
    ///
    /// # Errors
    /// `Internal` when the event cannot be encoded.
    pub fn publish<E: TaskEvent>(&self, event: &E) -> Result<()> {
        let event = any::pack(event)?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let repeatable = E::TOPIC == TaskOOM::TOPIC;
        if repeatable && queue.iter().any(|queued| queued.envelope.event.as_ref() == Some(&event)) {
            return Ok(());
        }
        queue.push_back(ForwardRequest {
            envelope: MessageField::some(Envelope {
                timestamp: MessageField::some(Timestamp::from(SystemTime::now())),
                namespace: self.namespace.to_string(),
                topic: E::TOPIC.into(),
                event: MessageField::some(event),
                ..Default::default()
            }),
            ..Default::default()
        });
        self.progress.send_modify(|progress| progress.published += 1);
        Ok(())
    }

    /// There may be a daemon again: delivery is tried at once.
    pub fn kick(&self) {
        self.progress.send_modify(|progress| progress.kicks += 1);
    }

    /// Nothing more will be published: delivery ends when all is taken.
    pub fn close(&self) {
        self.progress.send_modify(|progress| progress.closed = true);
    }

    /// Tells of progress from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Waits until the daemon has taken everything that is queued now, and
    /// returns how many events that were.
    pub async fn flush(&self) -> u64 {
        let mut progress = self.progress();
        let Progress { published, taken, .. } = *progress.borrow_and_update();
        self.kick();
        // The sender lives in self: waiting cannot fail.
        let _ = progress.wait_for(|now| now.taken >= published).await;
        published - taken
    }

    /// The oldest event that the daemon has not taken.
    pub(crate) fn oldest(&self) -> Option<ForwardRequest> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }

    /// The daemon has taken the oldest event, or never will.
    pub(crate) fn taken(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.pop_front().is_some() {
            self.progress.send_modify(|progress| progress.taken += 1);
        }
        if queue.is_empty() {
            queue.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_protocol::proto::task_events::TaskExit;

    fn outbox() -> Outbox {
        Outbox::new(Id::new("namespace", "ns").unwrap())
    }

    fn exit(pid: u32) -> TaskExit {
        TaskExit { container_id: "c".into(), pid, ..Default::default() }
    }

    #[test]
    fn events_stay_in_order_until_taken() {
        let outbox = outbox();
        outbox.publish(&exit(1)).unwrap();
        outbox.publish(&exit(2)).unwrap();
        for pid in [1, 2] {
            let request = outbox.oldest().unwrap();
            assert_eq!(outbox.oldest().as_ref(), Some(&request));
            assert_eq!(request.envelope.namespace, "ns");
            assert_eq!(request.envelope.topic, "/tasks/exit");
            assert_eq!(any::unpack::<TaskExit>(&request.envelope.event).unwrap().pid, pid);
            outbox.taken();
        }
        assert_eq!(outbox.oldest(), None);
        assert!(outbox.progress().borrow().is_empty());
    }

    #[test]
    fn want_of_memory_is_queued_once_per_container() {
        let outbox = outbox();
        let oom = |id: &str| TaskOOM { container_id: id.into(), ..Default::default() };
        for id in ["a", "b", "a", "a"] {
            outbox.publish(&oom(id)).unwrap();
        }
        assert_eq!(outbox.progress().borrow().published, 2);
        outbox.taken();
        outbox.publish(&oom("a")).unwrap();
        assert_eq!(outbox.progress().borrow().published, 3);
    }

    #[tokio::test]
    async fn a_flush_waits_for_what_is_queued_and_no_more() {
        let outbox = std::sync::Arc::new(outbox());
        outbox.publish(&exit(1)).unwrap();
        outbox.publish(&exit(2)).unwrap();
        outbox.taken();
        let flush = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.flush().await }
        });
        let mut progress = outbox.progress();
        progress.wait_for(|now| now.kicks == 1).await.unwrap();
        outbox.publish(&exit(3)).unwrap();
        outbox.taken();
        assert_eq!(flush.await.unwrap(), 1);
        outbox.taken();
        assert_eq!(outbox.flush().await, 0);
    }
}
