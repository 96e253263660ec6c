//! The words of 2015: containers with a bundle for a path and pids for names,
//! by the daemon's API of containerd 0.0.4.

mod attach;
pub(crate) mod checkpoints;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod start;
pub(crate) mod stats;

use anyhow::Result;
use containerd_client::Legacy;

use crate::{cli::Global, session, table::Table};

/// Said in the help of each group that has such words.
pub(crate) const HELP: &str = "\
Words marked with 2015 are those of containerd 0.0.4. They are about containers of their own, in \
the namespace that the daemon keeps for them, whatever -n says.";

async fn connect(global: &Global) -> Result<Legacy> {
    Ok(session::connect(global).await?.legacy())
}

/// A table as the `ctr` of 2015 had them.
fn table(header: &str) -> Table {
    Table::with_header(20, 3, header)
}
