//! `ctr shim`

mod connect;
mod delete;
mod exec;
mod shutdown;
mod start;
mod state;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cli::Global;

use connect::ShimClient;

/// Talk to a shim, past the daemon. The daemon does not learn what changes.
#[derive(Debug, Args)]
pub(crate) struct Shim {
    /// Container that the shim was started for
    #[arg(long)]
    id: Option<String>,
    /// Where the shim listens, in place of what follows from its id
    #[arg(long, value_name = "ADDRESS")]
    shim_address: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Delete a process that has ended
    Delete(delete::Delete),
    /// Run another process in a container
    Exec(Box<exec::Exec>),
    /// Start a process that was made
    Start(start::Start),
    /// Print the state of a container's first process
    State(state::State),
    /// End the shim, if it has no container
    Shutdown(shutdown::Shutdown),
}

impl Shim {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let client =
            ShimClient::connect(global, self.id.as_deref(), self.shim_address.as_deref()).await?;
        match self.command {
            Command::Delete(command) => command.run(&client, self.id).await,
            Command::Exec(command) => command.run(&client, self.id).await,
            Command::Start(command) => command.run(&client, self.id).await,
            Command::State(command) => command.run(&client, self.id).await,
            Command::Shutdown(command) => command.run(&client, self.id).await,
        }
    }
}
