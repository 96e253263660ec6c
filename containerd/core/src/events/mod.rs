//! Events: who publishes, who hears of it, and what survives a restart.
//!
//! ```text
//! shims ──forward──┐                                  ┌─ Subscription
//! shims' death ────┤→ Ledger → Journal → History ─────┼─ Subscription
//! stored objects ──┘  once,    on disk   numbered     └─ Subscription
//!                     ordered            by time
//! ```
//!
//! - The [`Exchange`] takes events in, one at a time.
//! - The ledger remembers what was announced of each process. It drops what
//!   was announced before and adds what is missing, so that a subscriber sees
//!   create, start, exit and delete of each process in that order and once,
//!   whatever shims resend or lose.
//! - The journal is written before anybody hears of an event and before a shim
//!   is told that its event has arrived. It is read at boot. While its disk is
//!   full, which space allocated ahead puts off, events are told all the same
//!   and written as soon as there is room.
//! - The history holds the latest events in memory. A [`Subscription`] is a
//!   position in it: live delivery and resuming after a reconnect are the same
//!   thing, and a subscriber that falls too far behind is told so.

mod content;
mod delivered;
mod envelope;
mod exchange;
mod history;
mod journal;
mod ledger;
mod memory;
mod objects;
mod subscription;
#[cfg(test)]
mod tests;
mod timestamp;
mod translate;

use std::time::SystemTime;

use shim_protocol::Id;

pub use envelope::Envelope;
pub use exchange::{Exchange, ExchangeConfig};
pub use subscription::{By, Subscribe, Subscription};
pub use timestamp::Timestamp;

/// The container whose init has ended, and with which status, if `envelope` is
/// about that.
pub(crate) fn init_exit(envelope: &Envelope) -> Option<(Id, u32)> {
    match translate::step(&envelope.topic, &envelope.event)? {
        (container, ledger::Step::Exit(ended)) => Some((container, ended.status)),
        _ => None,
    }
}

/// What an event tells of a task, for those who do not pass events on as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Init was started.
    Started { pid: u32 },
    /// An exec was started.
    ExecStarted { exec: Id, pid: u32 },
    /// Init has ended.
    Ended(Ending),
    /// An exec has ended.
    ExecEnded { exec: Id, ending: Ending },
    /// The kernel killed for want of memory.
    OutOfMemory,
    /// All processes were frozen.
    Paused,
    /// They run again.
    Resumed,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) pid: u32,
    /// Exit code, or 128 plus the number of a signal.
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

/// The container that an event is about, and what it tells of its task, if it
/// tells something.
pub(crate) fn happening(envelope: &Envelope) -> Option<(Id, Happening)> {
    let ending =
        |ended: ledger::Ended| Ending { pid: ended.pid, status: ended.status, at: ended.at.into() };
    let (container, step) = translate::step(&envelope.topic, &envelope.event)?;
    let exec = |exec: String| Id::new("exec id", &exec).ok();
    let happening = match step {
        ledger::Step::Start { pid } => Happening::Started { pid },
        ledger::Step::ExecStarted { exec: id, pid } => {
            Happening::ExecStarted { exec: exec(id)?, pid }
        }
        ledger::Step::Exit(ended) => Happening::Ended(ending(ended)),
        ledger::Step::ExecExit { exec: id, ended } => {
            Happening::ExecEnded { exec: exec(id)?, ending: ending(ended) }
        }
        ledger::Step::Repeatable => match envelope.topic.as_str() {
            "/tasks/oom" => Happening::OutOfMemory,
            "/tasks/paused" => Happening::Paused,
            "/tasks/resumed" => Happening::Resumed,
            _ => return None,
        },
        ledger::Step::Create { .. }
        | ledger::Step::Delete(_)
        | ledger::Step::ExecAdded { .. }
        | ledger::Step::ExecDelete { .. } => return None,
    };
    Some((container, happening))
}
