//! Signals by name, and those that are passed on to a container.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use containerd_client::{Error, Process};
use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// The last real-time signal (`asm-generic/signal.h`).
const LAST_SIGNAL: i32 = 64;

/// What a process gets that is told to end.
pub(crate) const SIGTERM: u32 = Signal::SIGTERM as u32;
/// What a process gets that is ended.
pub(crate) const SIGKILL: u32 = Signal::SIGKILL as u32;

/// Those that a process can pass on. The others are about this program itself,
/// such as the death of its children or a fault in it.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// The number of a signal: `9`, `KILL`, `SIGKILL`, `RTMIN+3`, in whatever case.
pub(crate) fn parse(text: &str) -> Result<u32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = name.parse::<i32>() {
        number
    } else if let Some(offset) = name.strip_prefix("RTMIN") {
        nix::libc::SIGRTMIN() + offset_of(offset, text)?
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        nix::libc::SIGRTMAX() + offset_of(offset, text)?
    } else {
        Signal::from_str(&format!("SIG{name}"))
            .map_err(|_| anyhow::anyhow!("unknown signal {text:?}"))? as i32
    };
    if !(1..=LAST_SIGNAL).contains(&number) {
        bail!("unknown signal {text:?}");
    }
    Ok(number as u32)
}

fn offset_of(offset: &str, text: &str) -> Result<i32> {
    if offset.is_empty() {
        return Ok(0);
    }
    offset.parse().with_context(|| format!("unknown signal {text:?}"))
}

/// Waits until this program is told to end, and answers the exit code that shells
/// give who is ended by that signal.
pub(crate) async fn told_to_end() -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = tokio::select! {
        _ = interrupt.recv() => Signal::SIGINT,
        _ = terminate.recv() => Signal::SIGTERM,
    };
    Ok(128 + told as u8)
}

/// Passes signals on to a process, until this is dropped.
pub(crate) fn forward(process: &Process) -> Result<JoinSet<()>> {
    let mut forwarders = JoinSet::new();
    for kind in FORWARDED {
        // Registered before anything else happens, so that none is missed.
        let mut signals = signal(SignalKind::from_raw(kind as i32))?;
        let process = process.clone();
        forwarders.spawn(async move {
            while signals.recv().await.is_some() {
                tracing::debug!(signal = %kind, "forwarding");
                if let Err(error) = process.kill(kind as u32).await {
                    report(kind, &error);
                }
            }
        });
    }
    Ok(forwarders)
}

/// A process that has ended gets no signals; that is no failure.
fn report(signal: Signal, error: &Error) {
    if error.is_not_found() {
        tracing::debug!(%signal, "not forwarded: the process has ended");
    } else {
        tracing::error!(%signal, "not forwarded: {}", error.report());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [("9", 9), ("SIGKILL", 9), ("term", 15), ("sigusr1", 10), ("64", 64)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        assert_eq!(parse("RTMIN+3").unwrap(), parse("SIGRTMIN").unwrap() + 3);
        assert_eq!(parse("RTMAX-1").unwrap(), 63);
    }

    #[test]
    fn what_is_no_signal() {
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+99", "RTMAX+1", "RTMINx"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
