//! Garbage: what nothing refers to any more is found and removed.
//!
//! ```text
//!   watch ─▶ mark (on a snapshot of the database) ─▶ one transaction: mark the rest, remove records
//!                                                                        │
//!                     blobs, snapshots, ingests that no record names ◀───┘ sweep
//! ```
//!
//! References never lead from one namespace to another, so each is collected
//! by itself; what is shared between them (the bytes of content) goes with the
//! last record.
//!
//! # Why nothing is lost that is in use
//!
//! Marking reads a snapshot, which takes no lock and holds up nobody. Whatever
//! is written meanwhile is noted by the database's writer
//! ([`crate::metadata`], `watch`), from before the snapshot was taken. The
//! records go in one transaction, that is on the thread on which all changes
//! are made, one after the other. It first looks at each record that was noted:
//! what it says now is marked too, and so is all that can be reached from
//! there. After that, everything is marked
//! - that was reached in the snapshot, since marks are never taken back;
//! - that is reached from a record that was written since, whether that is a
//!   new root, or one that was marked and refers to something else now.
//!
//! A path from a root to a record consists of records that were there in the
//! snapshot and say the same, and of records that were written since, so
//! everything that can be reached when the transaction ends is marked. Nobody
//! can add a reference between that and the removal: a lease that comes a
//! moment later finds either all of an object or nothing of it. An object that
//! was made since the snapshot is not removed, whether marked or not; it was
//! no candidate. The parents of such a snapshot are marked, so that it does not
//! stay without what it is made of.
//!
//! The writer is held up for as long as it takes to look at what was written
//! meanwhile and to remove what is garbage; without garbage, not at all.
//!
//! # Why nothing is left
//!
//! A record that nothing referred to when the pass began is neither reached in
//! the snapshot nor written since, unless somebody has begun to use it. Files
//! go after their records are gone for good, each under the same claim that
//! their writers take, and after another look at the records. If that is cut
//! short, the next start of the daemon, or the next pass, removes what no
//! record names.
//!
//! # Ingests
//!
//! They have no records. One is removed when nobody writes to it and no lease
//! holds it, if a lease did once or a day has passed ([`crate::content`]).

mod collect;
mod label;
mod mark;
#[cfg(test)]
mod model;
mod node;
mod records;
mod scheduler;
#[cfg(test)]
mod tests;

pub use collect::{Collected, Collector, SweepSnapshots};
pub use scheduler::{Passes, Scheduler, SchedulerConfig};

/// Label with the time (RFC 3339) from which on a lease holds nothing, or an
/// image is kept only if something refers to it.
pub const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// Label of a lease that holds things, but not what their labels refer to.
pub const FLAT_LABEL: &str = "containerd.io/gc.flat";

/// Label of content and snapshots that are kept for their own sake.
pub const ROOT_LABEL: &str = "containerd.io/gc.root";
