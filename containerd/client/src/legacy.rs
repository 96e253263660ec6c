//! The API of containerd 0.0.4, which a daemon of ours serves beside today's.
//!
//! A container is known by its name and its bundle, a process by its pid. The
//! messages are small and plain, so they are handed out as they are.

use containerd_api::legacy::{
    AddProcessRequest, Checkpoint, CreateCheckpointRequest, CreateContainerRequest,
    DeleteCheckpointRequest, Event, EventsRequest, ListCheckpointRequest, SignalRequest,
    StateRequest, StateResponse, Stats, StatsRequest, UpdateContainerRequest,
    api_client::ApiClient,
};
use tonic::{Streaming, transport::Channel};

use crate::{Client, Context, Result, client::MAX_MESSAGE_BYTES};

/// Containers as containerd 0.0.4 had them.
#[derive(Clone, Debug)]
pub struct Legacy {
    api: ApiClient<Channel>,
}

/// What happens, as it comes.
#[derive(Debug)]
pub struct LegacyEvents(Streaming<Event>);

/// Figures of a container, about one a second.
#[derive(Debug)]
pub struct LegacyStats(Streaming<Stats>);

impl Client {
    /// Containers as containerd 0.0.4 had them.
    pub fn legacy(&self) -> Legacy {
        let api = ApiClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Legacy { api }
    }
}

impl Legacy {
    /// All containers, and the machine.
    ///
    /// # Errors
    /// `Unimplemented` from daemons without this API; and those of the
    /// connection, as with all calls.
    pub async fn state(&self) -> Result<StateResponse> {
        let answer =
            self.api.clone().state(StateRequest {}).await.context("ask for", "the state")?;
        Ok(answer.into_inner())
    }

    /// Makes and starts a container; answers the pid of its first process.
    ///
    /// # Errors
    /// `NotFound` when there is no such bundle or checkpoint, `AlreadyExists`
    /// when there is such a container.
    pub async fn create(&self, request: CreateContainerRequest) -> Result<u32> {
        let id = request.id.clone();
        let answer = self.api.clone().create_container(request).await;
        Ok(answer.context("start container", id)?.into_inner().pid)
    }

    /// Freezes a container (`paused`) or lets it go on (`running`).
    ///
    /// # Errors
    /// `NotFound` for the container.
    pub async fn set_status(&self, id: &str, status: &str) -> Result<()> {
        let request =
            UpdateContainerRequest { id: id.to_owned(), signal: 0, status: status.to_owned() };
        self.api.clone().update_container(request).await.context("update container", id)?;
        Ok(())
    }

    /// Signals the process with a pid; 0 is the first.
    ///
    /// # Errors
    /// `NotFound` for the container or the process.
    pub async fn signal(&self, id: &str, pid: u32, signal: u32) -> Result<()> {
        let request = SignalRequest { id: id.to_owned(), pid, signal };
        self.api.clone().signal(request).await.context("signal container", id)?;
        Ok(())
    }

    /// Adds a process; answers its pid.
    ///
    /// # Errors
    /// `NotFound` for the container.
    pub async fn add_process(&self, request: AddProcessRequest) -> Result<u32> {
        let id = request.id.clone();
        let answer = self.api.clone().add_process(request).await;
        Ok(answer.context("add a process to container", id)?.into_inner().pid)
    }

    /// Makes a checkpoint.
    ///
    /// # Errors
    /// `NotFound` for the container, `AlreadyExists` for the checkpoint,
    /// `Unimplemented` when the daemon cannot make any.
    pub async fn create_checkpoint(&self, id: &str, checkpoint: Checkpoint) -> Result<()> {
        let request = CreateCheckpointRequest { id: id.to_owned(), checkpoint: Some(checkpoint) };
        let answer = self.api.clone().create_checkpoint(request).await;
        answer.context("make a checkpoint of container", id)?;
        Ok(())
    }

    /// The checkpoints of a container.
    ///
    /// # Errors
    /// `NotFound` for the container.
    pub async fn checkpoints(&self, id: &str) -> Result<Vec<Checkpoint>> {
        let request = ListCheckpointRequest { id: id.to_owned() };
        let answer = self.api.clone().list_checkpoint(request).await;
        Ok(answer.context("list checkpoints of container", id)?.into_inner().checkpoints)
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// `NotFound` for the container or the checkpoint.
    pub async fn delete_checkpoint(&self, id: &str, name: &str) -> Result<()> {
        let request = DeleteCheckpointRequest { id: id.to_owned(), name: name.to_owned() };
        let answer = self.api.clone().delete_checkpoint(request).await;
        answer.context("delete a checkpoint of container", id)?;
        Ok(())
    }

    /// Listens to what happens.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn events(&self) -> Result<LegacyEvents> {
        let answer = self.api.clone().events(EventsRequest {}).await;
        Ok(LegacyEvents(answer.context("subscribe to", "events")?.into_inner()))
    }

    /// Figures of a container, until it ends.
    ///
    /// # Errors
    /// `NotFound` for the container.
    pub async fn stats(&self, id: &str) -> Result<LegacyStats> {
        let request = StatsRequest { id: id.to_owned() };
        let answer = self.api.clone().get_stats(request).await;
        Ok(LegacyStats(answer.context("ask for figures of container", id)?.into_inner()))
    }
}

impl LegacyEvents {
    /// The next one; none when the daemon stops.
    ///
    /// # Errors
    /// `ResourceExhausted` when this was too slow; those of the connection.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        self.0.message().await.context("receive", "events")
    }
}

impl LegacyStats {
    /// The next ones; none when the container has ended.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn next(&mut self) -> Result<Option<Stats>> {
        self.0.message().await.context("receive", "figures")
    }
}
