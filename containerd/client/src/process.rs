//! One process of a task: its init, or one that was added later.

use std::time::{Duration, SystemTime};

use containerd_api::{
    services::tasks::v1::{
        CloseIoRequest, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest, GetRequest,
        KillRequest, ResizePtyRequest, StartRequest, WaitRequest,
    },
    v1::types::{Process as Wire, Status as WireStatus},
};

use crate::{Context, Error, ErrorKind, Namespace, Result, Stdio, time};

/// The first pause before asking a daemon that is away again; it doubles up to
/// the last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The runtime does not say.
    Unknown,
    /// Made and not started.
    Created,
    /// It runs.
    Running,
    /// It has ended.
    Stopped,
    /// It is frozen.
    Paused,
    /// It is being frozen.
    Pausing,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 plus the signal that ended it.
    pub status: u32,
    /// When.
    pub at: Option<SystemTime>,
}

/// What the daemon knows of a process now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its id in the host's pid namespace.
    pub pid: u32,
    /// Where it is in its life.
    pub status: Status,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// Where its standard streams lead.
    pub stdio: Stdio,
}

impl From<Wire> for State {
    fn from(wire: Wire) -> Self {
        let status = match wire.status() {
            WireStatus::Unknown => Status::Unknown,
            WireStatus::Created => Status::Created,
            WireStatus::Running => Status::Running,
            WireStatus::Stopped => Status::Stopped,
            WireStatus::Paused => Status::Paused,
            WireStatus::Pausing => Status::Pausing,
        };
        let exit = Exit { status: wire.exit_status, at: time::from_wire(wire.exited_at) };
        Self {
            pid: wire.pid,
            status,
            exit: (status == Status::Stopped).then_some(exit),
            stdio: Stdio {
                stdin: wire.stdin,
                stdout: wire.stdout,
                stderr: wire.stderr,
                terminal: wire.terminal,
            },
        }
    }
}

impl From<DeleteResponse> for Exit {
    fn from(wire: DeleteResponse) -> Self {
        Self { status: wire.exit_status, at: time::from_wire(wire.exited_at) }
    }
}

/// A process of a task. Cheap to clone.
///
/// The standard streams are not part of it: whoever made the
/// [`Fifos`](crate::Fifos) has them.
#[derive(Clone, Debug)]
pub struct Process {
    namespace: Namespace,
    container_id: String,
    /// Empty for the init process, as on the wire.
    exec_id: String,
}

impl Process {
    pub(crate) fn init(namespace: &Namespace, container_id: &str) -> Self {
        Self::exec(namespace, container_id, "")
    }

    pub(crate) fn exec(namespace: &Namespace, container_id: &str, exec_id: &str) -> Self {
        Self {
            namespace: namespace.clone(),
            container_id: container_id.into(),
            exec_id: exec_id.into(),
        }
    }

    /// The container that it runs in.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// Its identifier within the container; the init process has none.
    pub fn exec_id(&self) -> Option<&str> {
        (!self.exec_id.is_empty()).then_some(&self.exec_id)
    }

    /// The namespace of the container.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// For error messages.
    fn name(&self) -> String {
        match self.exec_id() {
            None => self.container_id.clone(),
            Some(exec_id) => format!("{} in {}", exec_id, self.container_id),
        }
    }

    /// What the daemon knows of it now.
    ///
    /// # Errors
    /// `NotFound` when it was deleted.
    pub async fn state(&self) -> Result<State> {
        let request = self.namespace.request(GetRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        })?;
        let response =
            self.namespace.tasks_stub().get(request).await.context("get task", self.name())?;
        let process = response.into_inner().process;
        process.map(Into::into).ok_or_else(|| Error::incomplete("get task", "process"))
    }

    /// Starts it, and returns its pid.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it was started before or its
    /// container has ended.
    pub async fn start(&self) -> Result<u32> {
        let request = self.namespace.request(StartRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        })?;
        let response =
            self.namespace.tasks_stub().start(request).await.context("start", self.name())?;
        Ok(response.into_inner().pid)
    }

    /// Waits until it has ended. For one that has ended already this returns at
    /// once, until it is deleted.
    ///
    /// # Errors
    /// `NotFound` when it was deleted, `Unavailable` when the daemon goes away
    /// meanwhile.
    pub async fn wait(&self) -> Result<Exit> {
        let request = self.namespace.request(WaitRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        })?;
        let response =
            self.namespace.tasks_stub().wait(request).await.context("wait for", self.name())?;
        let response = response.into_inner();
        Ok(Exit { status: response.exit_status, at: time::from_wire(response.exited_at) })
    }

    /// As [`wait`](Self::wait), but stays with the process when the daemon goes
    /// away: asks again until it is back. The process outlives it, and so do
    /// its standard streams.
    ///
    /// # Errors
    /// `NotFound` when it was deleted.
    pub async fn wait_through_restarts(&self) -> Result<Exit> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.wait().await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Sends it a signal, by the signal's number.
    ///
    /// # Errors
    /// `NotFound` when it has ended or was deleted.
    pub async fn kill(&self, signal: u32) -> Result<()> {
        self.kill_request(signal, false).await
    }

    pub(crate) async fn kill_request(&self, signal: u32, all: bool) -> Result<()> {
        let request = self.namespace.request(KillRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            all,
        })?;
        self.namespace.tasks_stub().kill(request).await.context("kill", self.name())?;
        Ok(())
    }

    /// Tells its terminal how large it is, in characters.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it has not been started.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let request = self.namespace.request(ResizePtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            width,
            height,
        })?;
        self.namespace.tasks_stub().resize_pty(request).await.context("resize", self.name())?;
        Ok(())
    }

    /// Ends its standard input, once the user's end is closed as well.
    ///
    /// # Errors
    /// `NotFound` when it was deleted.
    pub async fn close_stdin(&self) -> Result<()> {
        let request = self.namespace.request(CloseIoRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            stdin: true,
        })?;
        self.namespace
            .tasks_stub()
            .close_io(request)
            .await
            .context("close input of", self.name())?;
        Ok(())
    }

    /// Deletes it, and returns how it ended. Deleting an init process deletes
    /// the task.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` when it still runs.
    pub async fn delete(&self) -> Result<Exit> {
        let mut stub = self.namespace.tasks_stub();
        let container_id = self.container_id.clone();
        let response = match self.exec_id() {
            None => stub.delete(self.namespace.request(DeleteTaskRequest { container_id })?).await,
            Some(exec_id) => {
                let exec_id = exec_id.to_owned();
                let message = DeleteProcessRequest { container_id, exec_id };
                stub.delete_process(self.namespace.request(message)?).await
            }
        };
        Ok(response.context("delete", self.name())?.into_inner().into())
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn only_a_stopped_process_has_an_exit() {
        let wire = Wire { pid: 7, exit_status: 3, ..Wire::default() };
        for (status, expected) in [
            (WireStatus::Running, None),
            (WireStatus::Stopped, Some(3)),
            (WireStatus::Unknown, None),
        ] {
            let state = State::from(Wire { status: status.into(), ..wire.clone() });
            assert_eq!(state.exit.map(|exit| exit.status), expected);
        }
    }

    #[test]
    fn the_time_of_the_exit_is_kept() {
        let exit = Exit::from(DeleteResponse {
            exit_status: 137,
            exited_at: Some(Timestamp { seconds: 5, nanos: 6 }),
            ..Default::default()
        });
        let since = exit.at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((exit.status, since), (137, Duration::new(5, 6)));
    }
}
