//! What the `list` commands have in common.

use std::io;

use clap::Args;

use crate::{output, table::Table};

/// How to print a list.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// Print ids only; a namespace's is its name
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl Listing {
    /// Prints `items`: each has a row in `table`, or with `--quiet` its id in a
    /// line.
    pub(crate) fn print<T>(
        &self,
        items: &[T],
        id: impl Fn(&T) -> &str,
        mut table: Table,
        row: impl Fn(&T) -> String,
    ) -> io::Result<()> {
        if self.quiet {
            return items.iter().try_for_each(|item| output::line(id(item)));
        }
        items.iter().for_each(|item| table.line(row(item)));
        table.print()
    }
}
