//! `ctr plugins`

mod inspect_runtime;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the parts of the daemon
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Print what a runtime says of itself
    InspectRuntime(inspect_runtime::InspectRuntime),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::List(command) => command.run(global).await,
            Self::InspectRuntime(command) => command.run(global).await,
        }
    }
}
