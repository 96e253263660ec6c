//! What clients hear of changes to stored objects, in the order of commits.
//!
//! A change is announced once it is durable, and its client gets the answer
//! after that: whoever has seen an answer can rely on the event being out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use shim_protocol::{Error, Id, Result};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    containers::Runtime,
    metadata::{Change, Db},
};

/// A change to a stored object that is durable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectEvent {
    /// A namespace was made by request. One that came with its first object
    /// is not announced (as in containerd).
    NamespaceCreate {
        /// Its name.
        name: Id,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// Labels of a namespace were changed.
    NamespaceUpdate {
        /// Its name.
        name: Id,
        /// All its labels, as they are now.
        labels: BTreeMap<String, String>,
    },
    /// A namespace was removed.
    NamespaceDelete {
        /// Its name.
        name: Id,
    },
    /// A container was recorded.
    ContainerCreate {
        /// Its id.
        id: Id,
        /// Name of its image; may be empty.
        image: String,
        /// Which shim it will have.
        runtime: Runtime,
    },
    /// A container's record was changed. All values are the new ones.
    ContainerUpdate {
        /// Its id.
        id: Id,
        /// Name of its image; may be empty.
        image: String,
        /// All its labels.
        labels: BTreeMap<String, String>,
        /// Key of its snapshot; may be empty.
        snapshot_key: String,
    },
    /// A container's record was removed.
    ContainerDelete {
        /// Its id.
        id: Id,
    },
    /// An image was made.
    ImageCreate {
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// An image got other labels, or stands for something else.
    ImageUpdate {
        /// Its name.
        name: String,
        /// All its labels, as they are now.
        labels: BTreeMap<String, String>,
    },
    /// An image was removed.
    ImageDelete {
        /// Its name.
        name: String,
    },
    /// A snapshot that can be written to was made.
    SnapshotPrepare {
        /// Which snapshotter has it.
        snapshotter: String,
        /// Its key.
        key: String,
        /// What it builds upon; may be empty.
        parent: String,
    },
    /// A snapshot was fixed under a name.
    SnapshotCommit {
        /// Which snapshotter has it.
        snapshotter: String,
        /// Its key until now.
        key: String,
        /// Its name from now on.
        name: String,
    },
    /// A snapshot was removed.
    SnapshotRemove {
        /// Which snapshotter had it.
        snapshotter: String,
        /// Its key or name.
        key: String,
    },
}

impl ObjectEvent {
    /// The topic that containerd publishes it under.
    pub fn topic(&self) -> &'static str {
        match self {
            Self::NamespaceCreate { .. } => "/namespaces/create",
            Self::NamespaceUpdate { .. } => "/namespaces/update",
            Self::NamespaceDelete { .. } => "/namespaces/delete",
            Self::ContainerCreate { .. } => "/containers/create",
            Self::ContainerUpdate { .. } => "/containers/update",
            Self::ContainerDelete { .. } => "/containers/delete",
            Self::ImageCreate { .. } => "/images/create",
            Self::ImageUpdate { .. } => "/images/update",
            Self::ImageDelete { .. } => "/images/delete",
            Self::SnapshotPrepare { .. } => "/snapshot/prepare",
            Self::SnapshotCommit { .. } => "/snapshot/commit",
            Self::SnapshotRemove { .. } => "/snapshot/remove",
        }
    }
}

/// Takes events of stored objects to subscribers; the event exchange is one.
#[async_trait]
pub trait ObjectEvents: Send + Sync + 'static {
    /// Publishes `event`. Called one at a time, in the order of commits.
    ///
    /// # Errors
    /// Whatever kept it from being published. The change stays: the caller
    /// logs the error, and answers its client that the change was made.
    async fn publish_object(&self, namespace: &Id, event: ObjectEvent) -> Result<()>;
}

/// What is to be announced, and whoever waits for that.
struct Announcement {
    namespace: Id,
    event: ObjectEvent,
    answer: Box<dyn FnOnce() + Send>,
}

/// Carries events from the database's writer, which must not wait, to
/// [`ObjectEvents`], which may. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Announcer {
    /// Unbounded, but for each entry, or the last of some, a caller waits.
    queue: Arc<Mutex<Option<mpsc::UnboundedSender<Announcement>>>>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Announcer {
    /// Starts the task that publishes to `events`. It ends with
    /// [`Self::shutdown`], or when the last clone is gone.
    pub fn start(events: Arc<dyn ObjectEvents>) -> Self {
        let (queue, mut announcements) = mpsc::unbounded_channel::<Announcement>();
        let task = tokio::spawn(async move {
            while let Some(Announcement { namespace, event, answer }) = announcements.recv().await {
                let topic = event.topic();
                if let Err(e) = events.publish_object(&namespace, event).await {
                    tracing::error!(%namespace, topic, error = %e.report(), "event was not published");
                }
                answer();
            }
        });
        Self { queue: Arc::new(Mutex::new(Some(queue))), task: Arc::new(Mutex::new(Some(task))) }
    }

    /// Refuses further changes, announces those that are on their way, and
    /// ends.
    pub async fn shutdown(&self) {
        drop(lock(&self.queue).take());
        let Some(task) = lock(&self.task).take() else { return };
        if let Err(e) = task.await {
            tracing::error!(error = %e, "the announcer of object events ended in a panic");
        }
    }

    /// Makes a change of `db` in `namespace`; once it is durable, announces
    /// the event that `change` answers beside its value, and then answers.
    ///
    /// # Errors
    /// As [`Db::write`]. That an event could not be published is no error: the
    /// change was made.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        db: &Db,
        namespace: &Id,
        change: impl FnOnce(&mut Change<'_>) -> Result<(T, ObjectEvent)> + Send + 'static,
    ) -> Result<T> {
        let change = |at: &mut Change<'_>| change(at).map(|(value, event)| (value, Some(event)));
        self.write_some(db, namespace, change).await
    }

    /// As [`Self::write`], for a change that anybody has to hear of any number
    /// of things from, or of none.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) async fn write_some<T, E>(
        &self,
        db: &Db,
        namespace: &Id,
        change: impl FnOnce(&mut Change<'_>) -> Result<(T, E)> + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: IntoIterator<Item = ObjectEvent> + Send + 'static,
    {
        let stopping = || Error::unavailable("the daemon is stopping");
        let (answer, answered) = oneshot::channel();
        let queue = lock(&self.queue).clone().ok_or_else(stopping)?;
        let namespace = namespace.clone();
        db.submit(change, move |outcome| {
            let (value, events) = match outcome {
                Ok(made) => made,
                // The caller may have stopped waiting; so too below.
                Err(e) => return drop(answer.send(Err(e))),
            };
            let send = |event, answer| {
                let announcement = Announcement { namespace: namespace.clone(), event, answer };
                if let Err(refused) = queue.send(announcement) {
                    (refused.0.answer)();
                }
            };
            let mut events = events.into_iter().peekable();
            let answer: Box<dyn FnOnce() + Send> = Box::new(|| drop(answer.send(Ok(value))));
            // The last one takes the answer along.
            while let Some(event) = events.next() {
                if events.peek().is_none() {
                    return send(event, answer);
                }
                send(event, Box::new(|| {}));
            }
            answer();
        })
        .await?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is replaced in one step, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use crate::testing::{World, container, id};

    /// The order of events is that of commits, also of changes that race.
    #[tokio::test]
    async fn events_come_in_the_order_of_commits() {
        let world = World::new();
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let containers = world.containers.clone();
                tokio::spawn(async move {
                    for _ in 0..10 {
                        // Whichever of them is possible now.
                        drop(containers.create(&id("ns"), container("c")).await);
                        drop(containers.delete(&id("ns"), "c").await);
                    }
                })
            })
            .collect();
        for racer in racers {
            racer.await.unwrap();
        }
        let topics: Vec<_> = world.events.take().iter().map(|(_, e)| e.topic()).collect();
        assert!(topics.len() >= 20 && topics.len().is_multiple_of(2));
        for pair in topics.chunks(2) {
            assert_eq!(pair, ["/containers/create", "/containers/delete"]);
        }
    }

    #[tokio::test]
    async fn a_change_whose_caller_left_is_announced() {
        let world = World::new();
        world.disk.hold(true);
        let create = tokio::spawn({
            let containers = world.containers.clone();
            async move { containers.create(&id("ns"), container("c")).await }
        });
        let disk = world.disk.clone();
        tokio::task::spawn_blocking(move || disk.until_held()).await.unwrap();
        create.abort();
        assert!(create.await.unwrap_err().is_cancelled());
        world.disk.hold(false);
        world.announcer.shutdown().await;
        assert_eq!(world.events.take().len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_published_was_still_done() {
        let world = World::new();
        world.events.refuse();
        world.containers.create(&id("ns"), container("c")).await.unwrap();
        world.containers.get(&id("ns"), "c").await.unwrap();
    }

    #[tokio::test]
    async fn after_a_shutdown_nothing_is_changed() {
        let world = World::new();
        world.announcer.shutdown().await;
        world.announcer.shutdown().await;
        let refused = world.containers.create(&id("ns"), container("c")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(world.containers.get(&id("ns"), "c").await.unwrap_err().is_not_found());
    }
}
