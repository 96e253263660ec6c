//! `ctr snapshots usage`

use anyhow::Result;
use clap::Args;
use containerd_client::Snapshots;

use crate::{table::Table, units};

/// Print how much disk snapshots take, without their parents.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// Print sizes in bytes
    #[arg(short = 'b')]
    bytes: bool,
    /// Keys or names; all snapshots if there is none
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

impl Usage {
    pub(super) async fn run(mut self, snapshots: &Snapshots) -> Result<()> {
        if self.keys.is_empty() {
            self.keys = super::all(snapshots).await?.into_iter().map(|info| info.name).collect();
        }
        let mut table = Table::with_header(1, 1, "KEY\tSIZE\tINODES\t");
        for key in &self.keys {
            let usage = snapshots.usage(key).await?;
            let size = match self.bytes {
                true => usage.size.to_string(),
                false => units::binary(usage.size),
            };
            table.line(format!("{key}\t{size}\t{}\t", usage.inodes));
        }
        Ok(table.print()?)
    }
}
