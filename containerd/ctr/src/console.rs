//! The terminal that this program runs in.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result, bail};
use containerd_client::Process;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// The terminal, handing through every key, until this is dropped.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Puts standard input's terminal into raw mode.
    pub(crate) fn enter() -> Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            bail!("standard input is not a terminal, and -t needs one");
        }
        let before = tcgetattr(&stdin).context("get the mode of the terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("set the mode of the terminal")?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // If this fails, the terminal is gone.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Gives the terminal of a process the size of ours, now and whenever ours
/// changes, until this is dropped.
pub(crate) fn follow_size(process: &Process) -> Result<JoinSet<()>> {
    let mut changes = signal(SignalKind::window_change())?;
    let process = process.clone();
    let mut follower = JoinSet::new();
    follower.spawn(async move {
        loop {
            if let Some((width, height)) = terminal_size::terminal_size_of(io::stdin())
                && let Err(error) = process.resize(width.0.into(), height.0.into()).await
            {
                tracing::debug!("cannot resize: {}", error.report());
            }
            if changes.recv().await.is_none() {
                break;
            }
        }
    });
    Ok(follower)
}
