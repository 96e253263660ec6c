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

use shim_protocol::Id;

pub use envelope::Envelope;
pub use exchange::{Exchange, ExchangeConfig};
pub use subscription::{Subscribe, Subscription};
pub use timestamp::Timestamp;

/// The container whose init has ended, and with which status, if `envelope` is
/// about that.
pub(crate) fn init_exit(envelope: &Envelope) -> Option<(Id, u32)> {
    match translate::step(&envelope.topic, &envelope.event)? {
        (container, ledger::Step::Exit(ended)) => Some((container, ended.status)),
        _ => None,
    }
}
