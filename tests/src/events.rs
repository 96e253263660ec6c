//! A subscriber that stays, whatever happens to the daemon.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use containerd_api::{
    events as messages, from_any,
    services::events::v1::{PublishRequest, SubscribeRequest},
    to_any,
    types::Envelope,
};
use prost_types::Timestamp;
use tokio::{sync::watch, task::JoinHandle};
use tonic::Request;

use crate::{
    Api, Daemon,
    time::{within, within_time},
};

/// Metadata key with which a subscriber of our daemon says what it has seen:
/// the time of the last envelope, as seconds, a dot and nine digits.
const AFTER_HEADER: &str = "containerd-events-after";

/// Topic of the events by which the suite finds out that it is subscribed.
const MARKER_TOPIC: &str = "/tests/marker";

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Init was created.
    Create,
    /// Init was started.
    Start,
    /// An exec was described.
    ExecAdded,
    /// An exec was started.
    ExecStarted,
    /// A process ended.
    Exit,
    /// A process was deleted.
    Delete,
    /// The container was frozen.
    Paused,
    /// It runs again.
    Resumed,
    /// The kernel killed for want of memory.
    Oom,
    /// Not about a task.
    Other,
}

/// An event, flattened: fields that the message does not have are empty.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was published.
    pub at: Timestamp,
    /// Where it happened.
    pub namespace: String,
    /// What happened.
    pub topic: Topic,
    /// The topic as it was published.
    pub name: String,
    /// To which container.
    pub container: String,
    /// To which process of it: the container's id for init.
    pub process: String,
    /// The pid.
    pub pid: u32,
    /// How it ended, for [`Topic::Exit`] and [`Topic::Delete`].
    pub status: Option<u32>,
    /// When it ended, for the same topics.
    pub exited_at: Option<Timestamp>,
}

/// Everything a subscriber has heard. Subscribes again when the daemon is back,
/// after the last event that it has seen.
pub struct Events {
    api_socket: PathBuf,
    heard: watch::Receiver<Vec<Event>>,
    task: JoinHandle<()>,
}

impl Events {
    /// Subscribes to everything, and returns when events do arrive.
    ///
    /// # Errors
    /// They do not.
    pub async fn subscribe(daemon: &Daemon) -> Result<Self> {
        Self::listen_at(daemon.socket(), daemon.starts()).await
    }

    /// The same at the socket of a daemon that somebody else has started. Hears
    /// nothing more once that has ended.
    ///
    /// # Errors
    /// No events arrive.
    pub async fn subscribe_at(socket: &Path) -> Result<Self> {
        Self::listen_at(socket, watch::channel(0).1).await
    }

    async fn listen_at(address: &Path, mut starts: watch::Receiver<u32>) -> Result<Self> {
        let (sender, heard) = watch::channel(Vec::new());
        let socket = address.to_owned();
        let task = tokio::spawn(async move {
            loop {
                // Seen before the connection is tried, so that a start which
                // happens in the meantime is noticed below.
                starts.borrow_and_update();
                // A broken stream is what happens when a daemon is killed.
                let _ = listen(&socket, &sender).await;
                if starts.changed().await.is_err() {
                    return;
                }
            }
        });
        let events = Self { api_socket: address.to_owned(), heard, task };
        events.sync().await?;
        Ok(events)
    }

    /// Returns when everything that the daemon has published until now has
    /// been heard.
    ///
    /// # Errors
    /// The daemon does not deliver.
    pub async fn sync(&self) -> Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let marker = format!("marker-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut heard = self.heard.clone();
        within("subscription", async {
            // Nobody says when a subscription has begun, so one marker may be
            // too early.
            loop {
                let api = Api::connect(&self.api_socket, "markers").await?;
                let event = to_any(&messages::ContainerDelete { id: marker.clone() });
                let request = PublishRequest { topic: MARKER_TOPIC.into(), event: Some(event) };
                api.events().publish(request).await?;
                let came = heard.wait_for(|all| all.iter().any(|e| e.container == marker));
                let patience = Duration::from_millis(100);
                if let Ok(result) = tokio::time::timeout(patience, came).await {
                    result?;
                    return Ok(());
                }
            }
        })
        .await?
    }

    /// Everything heard so far about tasks, oldest first.
    pub fn all(&self) -> Vec<Event> {
        self.heard.borrow().iter().filter(|event| event.topic != Topic::Other).cloned().collect()
    }

    /// Everything heard so far, whatever it is about.
    pub fn everything(&self) -> Vec<Event> {
        self.heard.borrow().iter().filter(|event| event.name != MARKER_TOPIC).cloned().collect()
    }

    /// Waits until an event for which `test` is true has been heard.
    ///
    /// # Errors
    /// It does not come.
    pub async fn wait_for(&self, what: &str, test: impl Fn(&Event) -> bool) -> Result<Event> {
        let mut heard = self.heard.clone();
        let all = within(what, heard.wait_for(|all| all.iter().any(&test))).await;
        let Ok(all) = all else { bail!("no event: {what}; heard: {:#?}", self.all()) };
        all?.iter().find(|event| test(event)).cloned().context("event")
    }

    /// Waits, for `limit` at most, until `count` events have been heard for which
    /// `test` is true.
    ///
    /// # Errors
    /// Fewer came.
    pub async fn wait_for_many(
        &self,
        what: &str,
        count: usize,
        limit: Duration,
        test: impl Fn(&Event) -> bool,
    ) -> Result<()> {
        let mut heard = self.heard.clone();
        let came = |all: &[Event]| all.iter().filter(|event| test(event)).count();
        let enough = heard.wait_for(|all| came(all) >= count);
        let Ok(enough) = within_time(limit, what, enough).await else {
            bail!("{what}: {} of {count} came in {} s", came(&self.all()), limit.as_secs());
        };
        enough.context("the subscription has ended")?;
        Ok(())
    }

    /// Waits for the exit of a process.
    ///
    /// # Errors
    /// It does not come.
    pub async fn exit_of(&self, container: &str, process: &str) -> Result<Event> {
        self.wait_for(&format!("exit of {container} {process}"), |event| {
            event.topic == Topic::Exit && event.container == container && event.process == process
        })
        .await
    }

    /// Waits until a container's task has been deleted.
    ///
    /// # Errors
    /// It was not.
    pub async fn delete_of(&self, container: &str) -> Result<Event> {
        self.wait_for(&format!("delete of {container}"), |event| {
            event.topic == Topic::Delete
                && event.container == container
                && event.process == container
        })
        .await
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Subscribes and adds to `heard` until the stream ends.
async fn listen(socket: &Path, heard: &watch::Sender<Vec<Event>>) -> Result<()> {
    // The namespace does not matter: all are heard.
    let api = Api::connect(socket, "default").await?;
    let mut request = Request::new(SubscribeRequest::default());
    if let Some(last) = heard.borrow().last() {
        let cursor = format!("{}.{:09}", last.at.seconds, last.at.nanos);
        request.metadata_mut().insert(AFTER_HEADER, cursor.parse()?);
    }
    let mut stream = api.events().subscribe(request).await?.into_inner();
    while let Some(envelope) = stream.message().await? {
        let event = flatten(envelope)?;
        heard.send_modify(|all| all.push(event));
    }
    Ok(())
}

fn flatten(envelope: Envelope) -> Result<Event> {
    let any = envelope.event.context("an envelope without an event")?;
    let mut event = Event {
        at: envelope.timestamp.context("an envelope without a time")?,
        namespace: envelope.namespace,
        topic: Topic::Other,
        name: envelope.topic,
        container: String::new(),
        process: String::new(),
        pid: 0,
        status: None,
        exited_at: None,
    };
    match event.name.as_str() {
        "/tasks/create" => {
            let message: messages::TaskCreate = from_any(&any)?;
            event.init(Topic::Create, message.container_id, message.pid);
        }
        "/tasks/start" => {
            let message: messages::TaskStart = from_any(&any)?;
            event.init(Topic::Start, message.container_id, message.pid);
        }
        "/tasks/exec-added" => {
            let message: messages::TaskExecAdded = from_any(&any)?;
            event.exec(Topic::ExecAdded, message.container_id, message.exec_id, 0);
        }
        "/tasks/exec-started" => {
            let message: messages::TaskExecStarted = from_any(&any)?;
            event.exec(Topic::ExecStarted, message.container_id, message.exec_id, message.pid);
        }
        "/tasks/exit" => {
            let message: messages::TaskExit = from_any(&any)?;
            event.exec(Topic::Exit, message.container_id, message.id, message.pid);
            event.status = Some(message.exit_status);
            event.exited_at = message.exited_at;
        }
        "/tasks/delete" => {
            let message: messages::TaskDelete = from_any(&any)?;
            event.exec(Topic::Delete, message.container_id, message.id, message.pid);
            event.status = Some(message.exit_status);
            event.exited_at = message.exited_at;
        }
        "/tasks/paused" => {
            let message: messages::TaskPaused = from_any(&any)?;
            event.init(Topic::Paused, message.container_id, 0);
        }
        "/tasks/resumed" => {
            let message: messages::TaskResumed = from_any(&any)?;
            event.init(Topic::Resumed, message.container_id, 0);
        }
        "/tasks/oom" => {
            let message: messages::TaskOom = from_any(&any)?;
            event.init(Topic::Oom, message.container_id, 0);
        }
        "/containers/create" => {
            let message: messages::ContainerCreate = from_any(&any)?;
            event.container = message.id;
        }
        MARKER_TOPIC | "/containers/delete" => {
            let message: messages::ContainerDelete = from_any(&any)?;
            event.container = message.id;
        }
        _ => {}
    }
    Ok(event)
}

impl Event {
    fn init(&mut self, topic: Topic, container: String, pid: u32) {
        self.exec(topic, container, String::new(), pid);
    }

    /// An empty process id means init, which has its container's id in others.
    fn exec(&mut self, topic: Topic, container: String, process: String, pid: u32) {
        self.topic = topic;
        self.process = if process.is_empty() { container.clone() } else { process };
        self.container = container;
        self.pid = pid;
    }
}
