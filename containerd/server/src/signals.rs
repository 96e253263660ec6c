//! What the daemon does when it gets a signal.
//!
//! The first SIGTERM or SIGINT is a wish to end, which [`Signals`] hands to
//! async code. The second ends the process from within the signal's handler,
//! so that it helps even when no async code runs any more.

use std::sync::{Arc, atomic::AtomicBool};

use shim_protocol::{Context, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
pub(crate) enum Wish {
    /// End, and leave containers alone.
    End,
    /// Tell which tasks there are.
    Dump,
}

/// The signals that mean something to the daemon.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    dump: Signal,
}

impl Signals {
    /// Listens. From now on no signal is lost.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn new() -> Result<Self> {
        end_at_the_second()?;
        let listen = |kind| signal(kind).context("listen for", "signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            dump: listen(SignalKind::user_defined1())?,
        })
    }

    /// The next wish.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.dump.recv() => Wish::Dump,
        }
    }

    /// Waits for the wish to end, when there is nothing to dump yet.
    pub(crate) async fn end(&mut self) {
        while let Wish::Dump = self.next().await {}
    }
}

/// Lets the second of these signals, whichever it is, end the process with the
/// status that a shell gives one that the signal has killed.
fn end_at_the_second() -> Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        // Actions run in the order of their registration, so the first signal
        // finds the flag down and then raises it.
        flag::register_conditional_shutdown(number, 128 + number, asked.clone())
            .and_then(|_| flag::register(number, asked.clone()))
            .context("listen for signal", number)?;
    }
    Ok(())
}
