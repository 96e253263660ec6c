//! `ctr namespaces`

mod create;
mod label;
mod list;
mod remove;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a namespace
    #[command(visible_alias = "c")]
    Create(create::Create),
    /// List namespaces
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Remove namespaces that are empty
    #[command(visible_alias = "rm")]
    Remove(remove::Remove),
    /// Set and clear labels of a namespace
    Label(label::Label),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Create(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
            Self::Remove(command) => command.run(global).await,
            Self::Label(command) => command.run(global).await,
        }
    }
}
