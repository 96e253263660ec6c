//! `ctr events`

use anyhow::Result;
use clap::Args;
use containerd_client::{Envelope, SubscribeOptions};

use super::legacy;
use crate::{cli::Global, json, output, session, time};

/// Print events as they come. When the daemon goes away, this waits for it, and
/// goes on after the last event that came.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only those that a filter matches, such as topic~=|^/tasks/|
    #[arg(value_name = "FILTER", conflicts_with = "legacy")]
    filters: Vec<String>,
    /// What happens to containers of 2015, in the words of then
    #[arg(long)]
    legacy: bool,
}

impl Events {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        if self.legacy {
            return legacy::events::run(global).await;
        }
        let client = session::connect(global).await?;
        let options = SubscribeOptions::new().filters(self.filters).reconnect();
        let mut events = client.subscribe(options).await?;
        while let Some(envelope) = events.next().await? {
            output::line(line(&envelope))?;
        }
        Ok(())
    }
}

fn line(envelope: &Envelope) -> String {
    let event = match envelope.event.as_ref().map(json::event) {
        None => String::new(),
        Some(Ok(event)) => event.to_string(),
        Some(Err(error)) => {
            tracing::warn!(topic = envelope.topic, "cannot read an event: {error}");
            String::new()
        }
    };
    let time = time::go(envelope.timestamp);
    format!("{time} {} {} {event}", envelope.namespace, envelope.topic)
}

#[cfg(test)]
mod tests {
    use containerd_api::{events::TaskStart, to_any};

    use super::*;

    #[test]
    fn time_namespace_topic_event() {
        let start = TaskStart { container_id: "web".into(), pid: 7 };
        let envelope = Envelope {
            timestamp: Some(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1)),
            namespace: "default".into(),
            topic: "/tasks/start".into(),
            event: Some(to_any(&start)),
        };
        assert_eq!(
            line(&envelope),
            r#"1970-01-01 00:00:01 +0000 UTC default /tasks/start {"container_id":"web","pid":7}"#
        );
    }
}
