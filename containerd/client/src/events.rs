//! Events: what happens in the daemon, as a stream that survives its restart.

use std::{
    fmt,
    pin::Pin,
    time::{Duration, SystemTime},
};

use containerd_api::{
    AnyError, from_any,
    services::events::v1::{PublishRequest, SubscribeRequest, events_client::EventsClient},
    types::Envelope as Wire,
};
use prost::Name;
use prost_types::Any;
use tonic::{Request, Streaming, metadata::MetadataValue};

use crate::{Client, Context, ErrorKind, Namespace, Result, time};

/// Metadata key of a subscription: the time of the last event that the
/// subscriber has, as `<seconds>.<9 digits>`. Our daemon sends everything that
/// came after it; Go's does not know the key and starts with the next event.
const AFTER_HEADER: &str = "containerd-events-after";

/// The first pause before connecting again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How long a daemon may take to confirm a subscription. Ours does it at once;
/// Go's is silent until it has the first event to send.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// An event with its address.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// When it was published. Later events of one daemon have later times.
    pub timestamp: Option<SystemTime>,
    /// Where; empty for events that belong to no namespace.
    pub namespace: String,
    /// What it is about, such as `/tasks/exit`.
    pub topic: String,
    /// The event: a message of `containerd_api::events`.
    pub event: Option<Any>,
}

impl Envelope {
    /// The event as a message.
    ///
    /// # Errors
    /// It is another message, or its bytes make no sense.
    ///
    /// ```
    /// use containerd_api::{events::TaskExit, to_any};
    /// use containerd_client::Envelope;
    ///
    /// let exit = TaskExit { container_id: "web".into(), exit_status: 3, ..Default::default() };
    /// let envelope = Envelope {
    ///     timestamp: None,
    ///     namespace: "default".into(),
    ///     topic: "/tasks/exit".into(),
    ///     event: Some(to_any(&exit)),
    /// };
    /// assert_eq!(envelope.decode::<TaskExit>()?.exit_status, 3);
    /// # Ok::<(), containerd_api::AnyError>(())
    /// ```
    pub fn decode<M: Name + Default>(&self) -> Result<M, AnyError> {
        from_any(self.event.as_ref().unwrap_or(&Any::default()))
    }
}

impl From<Wire> for Envelope {
    fn from(wire: Wire) -> Self {
        Self {
            timestamp: time::from_wire(wire.timestamp),
            namespace: wire.namespace,
            topic: wire.topic,
            event: wire.event,
        }
    }
}

/// What to subscribe to, and how.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    filters: Vec<String>,
    after: Option<SystemTime>,
    reconnect: bool,
}

impl SubscribeOptions {
    /// All events, until the connection ends.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events that one of the filters matches, such as
    /// `topic=="/tasks/exit",namespace==default`.
    #[must_use]
    pub fn filters<S: Into<String>>(mut self, filters: impl IntoIterator<Item = S>) -> Self {
        self.filters.extend(filters.into_iter().map(Into::into));
        self
    }

    /// Also what was published after this time, as far as the daemon remembers.
    #[must_use]
    pub fn after(mut self, time: SystemTime) -> Self {
        self.after = Some(time);
        self
    }

    /// Connects again when the connection ends, and goes on after the last
    /// event that came: from our daemon nothing is missed and nothing comes
    /// twice, also across its restarts, unless it was away from so many events
    /// that the daemon has not kept them all; [`Events::next`] says so then.
    /// From Go's daemon, what happened in between is lost.
    #[must_use]
    pub fn reconnect(mut self) -> Self {
        self.reconnect = true;
        self
    }
}

impl Client {
    /// Subscribes to events. When this returns, our daemon has the
    /// subscription: what happens from now on will come. Go's daemon does not
    /// tell when it has it, so it is given a moment, and some of its errors
    /// come from [`Events::next`].
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Events> {
        let before = SystemTime::now();
        let mut opening: Opening =
            Box::pin(open(self.clone(), options.filters.clone(), options.after));
        let stream = match tokio::time::timeout(CONFIRMATION, &mut opening).await {
            Ok(stream) => Stream::Open(Box::new(stream?)),
            Err(_) => Stream::Opening(opening),
        };
        Ok(Events {
            client: self.clone(),
            filters: options.filters,
            // If the daemon goes before the first event, "after the start" is
            // where to go on.
            last: options.after.unwrap_or(before),
            reconnect: options.reconnect,
            stream,
        })
    }
}

impl Namespace {
    /// Publishes an event.
    ///
    /// # Errors
    /// `InvalidArgument` when the topic is bad.
    pub async fn publish(&self, topic: &str, event: Any) -> Result<()> {
        let request = self.request(PublishRequest { topic: topic.into(), event: Some(event) })?;
        EventsClient::new(self.client().channel())
            .publish(request)
            .await
            .context("publish", topic)?;
        Ok(())
    }
}

/// A subscription. Dropping it ends it.
pub struct Events {
    client: Client,
    filters: Vec<String>,
    last: SystemTime,
    reconnect: bool,
    stream: Stream,
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<Wire>>> + Send>>;

/// Where a subscription is in its life.
enum Stream {
    /// The daemon has been asked, and has not answered yet.
    Opening(Opening),
    Open(Box<Streaming<Wire>>),
    Ended,
}

impl Events {
    /// The next event; `None` when the daemon has ended the subscription.
    ///
    /// With [`SubscribeOptions::reconnect`] it waits for as long as the daemon
    /// is away. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// Those of the connection; `ResourceExhausted` when the subscriber is too
    /// slow and does not reconnect, `OutOfRange` when it does and the daemon has
    /// not kept what it missed.
    pub async fn next(&mut self) -> Result<Option<Envelope>> {
        loop {
            match &mut self.stream {
                Stream::Opening(opening) => match opening.await {
                    Ok(stream) => self.stream = Stream::Open(Box::new(stream)),
                    Err(error) => {
                        self.stream = Stream::Ended;
                        if !self.reconnect || is_final(error.kind()) {
                            return Err(error);
                        }
                    }
                },
                Stream::Open(stream) => match stream.message().await {
                    Ok(Some(wire)) => {
                        let envelope = Envelope::from(wire);
                        self.last = envelope.timestamp.unwrap_or(self.last);
                        return Ok(Some(envelope));
                    }
                    Ok(None) => self.stream = Stream::Ended,
                    Err(status) => {
                        self.stream = Stream::Ended;
                        if !self.reconnect {
                            return Err(status).context("receive events", "");
                        }
                    }
                },
                Stream::Ended if self.reconnect => {
                    self.stream = Stream::Open(Box::new(self.open_again().await?));
                }
                Stream::Ended => return Ok(None),
            }
        }
    }

    /// The time of the last event that came: where a later subscription may go
    /// on with [`SubscribeOptions::after`].
    pub fn position(&self) -> SystemTime {
        self.last
    }

    /// The events as a [`futures::Stream`].
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<Envelope>> {
        futures::stream::try_unfold(self, |mut events| async move {
            Ok(events.next().await?.map(|envelope| (envelope, events)))
        })
    }

    /// Tries until the daemon is back. Only a failure that will not go away by
    /// waiting ends it.
    async fn open_again(&self) -> Result<Streaming<Wire>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match open(self.client.clone(), self.filters.clone(), Some(self.last)).await {
                Ok(stream) => return Ok(stream),
                Err(error) if is_final(error.kind()) => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("filters", &self.filters)
            .field("last", &self.last)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}

async fn open(
    client: Client,
    filters: Vec<String>,
    after: Option<SystemTime>,
) -> Result<Streaming<Wire>> {
    let mut request = Request::new(SubscribeRequest { filters });
    if let Some(value) = after.and_then(|t| MetadataValue::try_from(time::decimal(t)).ok()) {
        request.metadata_mut().insert(AFTER_HEADER, value);
    }
    let response =
        EventsClient::new(client.channel()).subscribe(request).await.context("subscribe", "")?;
    Ok(response.into_inner())
}

fn is_final(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidArgument
            | ErrorKind::OutOfRange
            | ErrorKind::PermissionDenied
            | ErrorKind::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_without_event_is_no_message() {
        let envelope = Envelope::from(Wire::default());
        assert_eq!(envelope.timestamp, None);
        assert!(envelope.decode::<containerd_api::events::TaskExit>().is_err());
    }
}
