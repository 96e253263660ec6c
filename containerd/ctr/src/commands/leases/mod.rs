//! `ctr leases`

mod create;
mod delete;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List leases
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Make a lease
    Create(create::Create),
    /// Delete leases
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(delete::Delete),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::List(command) => command.run(global).await,
            Self::Create(command) => command.run(global).await,
            Self::Delete(command) => command.run(global).await,
        }
    }
}
