//! `ctr containers`

mod checkpoint;
mod create;
mod delete;
mod info;
mod label;
mod list;
mod restore;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container
    Create(Box<create::Create>),
    /// Delete containers
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(delete::Delete),
    /// Print what is known of a container
    Info(info::Info),
    /// List containers
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Set and clear labels of a container
    Label(label::Label),
    /// Save a container as an image
    Checkpoint(checkpoint::Checkpoint),
    /// Make a container from a saved one, and start it
    Restore(Box<restore::Restore>),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        match self {
            Self::Create(command) => command.run(global).await,
            Self::Delete(command) => command.run(global).await,
            Self::Info(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
            Self::Label(command) => command.run(global).await,
            Self::Checkpoint(command) => command.run(global).await,
            Self::Restore(command) => return command.run(global).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
