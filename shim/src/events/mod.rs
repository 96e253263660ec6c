//! Events on their way to the daemon: kept in order until it has taken them.

pub mod daemon;
pub mod delivery;
pub mod outbox;

pub use outbox::Outbox;
