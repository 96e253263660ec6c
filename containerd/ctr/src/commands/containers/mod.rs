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
use clap::{Args, Subcommand};

use super::legacy;
use crate::cli::Global;

/// Work on containers: what is to be run
///
/// Without a command, the containers of 2015 are listed.
#[derive(Debug, Args)]
#[command(after_help = legacy::HELP)]
pub(crate) struct Group {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    /// Start a container from a bundle (2015)
    Start(legacy::start::Start),
    /// Send a signal to a process of a container (2015)
    Kill(legacy::kill::Kill),
    /// Run another process in a container (2015)
    Exec(legacy::exec::Exec),
    /// Print what a container uses (2015)
    Stats(legacy::stats::Stats),
}

impl Group {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        match self.command {
            Some(command) => command.run(global).await,
            None => legacy::list::run(global).await.map(|()| ExitCode::SUCCESS),
        }
    }
}

impl Command {
    async fn run(self, global: &Global) -> Result<ExitCode> {
        match self {
            Self::Start(command) => return command.run(global).await,
            Self::Exec(command) => return command.run(global).await,
            Self::Kill(command) => command.run(global).await,
            Self::Stats(command) => command.run(global).await,
            Self::Create(command) => command.run(global).await,
            Self::Delete(command) => command.run(global).await,
            Self::Info(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
            Self::Label(command) => command.run(global).await,
            Self::Checkpoint(command) => return command.run(global).await,
            Self::Restore(command) => return command.run(global).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
