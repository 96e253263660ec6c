//! A logging program: it reads the streams from descriptors 3 and 4, and
//! closes 5, or writes a byte to it, when it is ready
//! (containerd, `core/runtime/v2/logging`).

use std::{os::fd::OwnedFd, process::Command, time::Duration};

use nix::sys::signal::Signal;
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use super::{Owner, target::LoggerSpec};
use crate::{
    reaper::{KillOnDrop, Reaper},
    sys::command,
};

/// How long it may take to get ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// After the end of the streams it should end by itself.
const END_DEADLINE: Duration = Duration::from_secs(2);
/// After SIGTERM it may still flush (containerd's `binaryIOProcTermTimeout`).
const TERM_DEADLINE: Duration = Duration::from_secs(12);

/// A running logging program; dropping it kills it.
pub(super) struct Logger(KillOnDrop);

impl Logger {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// `FailedPrecondition` when it cannot be run or ends without getting
    /// ready, `DeadlineExceeded` when that takes too long.
    pub(super) async fn start(
        spec: &LoggerSpec,
        owner: &Owner<'_>,
        streams: [OwnedFd; 2],
        reaper: &Reaper,
    ) -> Result<Self> {
        let (ready, say_ready) = std::io::pipe().context("make", "pipe")?;
        let mut command = Command::new(&spec.program);
        let [stdout, stderr] = streams;
        command
            .args(&spec.arguments)
            .env_clear()
            .env("CONTAINER_ID", &**owner.id)
            .env("CONTAINER_NAMESPACE", &**owner.namespace)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command::pass_fds(&mut command, vec![stdout, stderr, say_ready.into()])
            .context("pass descriptors to", spec.program.display())?;
        let child = reaper.spawn(&mut command)?;
        // Ours would keep the pipes open.
        drop(command);
        let logger = Self(KillOnDrop::new(child.pid, child.exit));
        Self::ready(spec, ready.into()).await?;
        Ok(logger)
    }

    async fn ready(spec: &LoggerSpec, pipe: OwnedFd) -> Result<()> {
        let program = spec.program.display();
        let mut pipe = pipe::Receiver::from_owned_fd(pipe).context("read", "ready pipe")?;
        let mut byte = [0];
        let length = timeout(READY_DEADLINE, pipe.read(&mut byte))
            .await
            .map_err(|_| {
                Error::new(ErrorKind::DeadlineExceeded, format!("logger {program} gets not ready"))
            })?
            .context("read", "ready pipe")?;
        if length == 0 && spec.says_ready {
            return Err(Error::precondition(format!("logger {program} ended unready")));
        }
        Ok(())
    }

    /// Waits for its end; the writing ends of its streams must be closed.
    pub(super) async fn stop(self) {
        let Self(mut child) = self;
        if timeout(END_DEADLINE, child.ended()).await.is_ok() {
            return;
        }
        child.signal(Signal::SIGTERM);
        if timeout(TERM_DEADLINE, child.ended()).await.is_ok() {
            return;
        }
        tracing::warn!("a logger does not end, killing it");
        child.signal(Signal::SIGKILL);
        child.ended().await;
    }
}
