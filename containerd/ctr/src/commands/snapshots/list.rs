//! `ctr snapshots list`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

use crate::table::Table;

/// List snapshots.
#[derive(Debug, Args)]
pub(crate) struct List {}

impl List {
    pub(super) async fn run(self, snapshots: &Snapshots) -> Result<()> {
        let mut table = Table::with_header(1, 1, "KEY\tPARENT\tKIND\t");
        for info in super::all(snapshots).await? {
            table.line(format!("{}\t{}\t{}\t", info.name, info.parent, info.kind.name()));
        }
        Ok(table.print()?)
    }
}
