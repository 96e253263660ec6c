//! The database of all records.
//!
//! - `schema` draws what is in it, `migrate` makes and updates that.
//! - [`Db`] is the handle: reads see the last commit and wait for nobody,
//!   writes share commits (`writer`).
//! - `Read` and `Change` are what a read or a write works with.
//! - `watch` tells who collects garbage what was written meanwhile.
//! - `store` holds the open file, and opens it again after a failure of its
//!   disk; `file` makes sure that a full disk is not such a failure.

mod db;
mod fault;
mod file;
mod key;
mod migrate;
pub(crate) mod schema;
mod store;
pub(crate) mod stored;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transaction;
mod watch;
mod writer;

pub use db::Db;
pub(crate) use key::{Key, last_part, last_parts};
pub(crate) use transaction::{Change, Read, Snapshot};
pub(crate) use watch::{Counts, Touched};
