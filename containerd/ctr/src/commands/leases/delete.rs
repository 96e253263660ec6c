//! `ctr leases delete`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, output, session};

/// Delete leases and print their ids.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Return when what they alone held is gone
    #[arg(long)]
    sync: bool,
    /// Ids of the leases
    #[arg(required = true)]
    leases: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let leases = session::namespace(global).await?.leases();
        for (i, id) in self.leases.iter().enumerate() {
            // One collection after the last is enough for all.
            let sync = self.sync && i + 1 == self.leases.len();
            leases.delete(id, sync).await?;
            output::line(id)?;
        }
        Ok(())
    }
}
