//! `ctr tasks`

mod attach;
pub(crate) mod checkpoint;
mod delete;
mod exec;
mod kill;
mod list;
mod metrics;
mod pause;
mod ps;
mod resume;
pub(crate) mod start;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stay with a running task: its output, and input for it
    Attach(attach::Attach),
    /// Write a task to disk
    Checkpoint(checkpoint::Checkpoint),
    /// Delete tasks that have ended
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(delete::Delete),
    /// Run another process in a task
    Exec(exec::Exec),
    /// Send a task a signal
    Kill(kill::Kill),
    /// List tasks
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Print what a task uses
    #[command(visible_alias = "metric")]
    Metrics(metrics::Metrics),
    /// Freeze the processes of a task
    Pause(pause::Pause),
    /// List the processes of a task
    Ps(ps::Ps),
    /// Let a paused task go on
    Resume(resume::Resume),
    /// Start a container that was made before
    Start(start::Start),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        match self {
            Self::Attach(command) => return command.run(global).await,
            Self::Delete(command) => return command.run(global).await,
            Self::Exec(command) => return command.run(global).await,
            Self::Start(command) => return command.run(global).await,
            Self::Checkpoint(command) => return command.run(global).await,
            Self::Kill(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
            Self::Metrics(command) => command.run(global).await,
            Self::Pause(command) => command.run(global).await,
            Self::Ps(command) => command.run(global).await,
            Self::Resume(command) => command.run(global).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
