//! `ctr checkpoints`

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use containerd_api::legacy::Checkpoint;

use super::{HELP, connect, table};
use crate::cli::Global;

/// Work on checkpoints of containers (2015)
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = HELP)]
pub(crate) struct Group {
    #[command(subcommand)]
    command: Option<Command>,
    /// Id of the container whose checkpoints are listed
    id: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the checkpoints of a container (2015)
    List(List),
    /// Make a checkpoint of a container (2015)
    Create(Create),
    /// Delete a checkpoint of a container (2015)
    Delete(Delete),
}

#[derive(Debug, Args)]
struct List {
    /// Id of the container
    id: String,
}

#[derive(Debug, Args)]
struct Create {
    /// Keep open TCP connections
    #[arg(long)]
    tcp: bool,
    /// Keep Unix sockets that lead outside
    #[arg(long)]
    unix_sockets: bool,
    /// End the container when the checkpoint is made
    #[arg(long)]
    exit: bool,
    /// Keep a terminal that somebody else has made
    #[arg(long)]
    shell: bool,
    /// Id of the container
    id: String,
    /// Name of the checkpoint
    name: String,
}

#[derive(Debug, Args)]
struct Delete {
    /// Id of the container
    id: String,
    /// Name of the checkpoint
    name: String,
}

impl Group {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let legacy = connect(global).await?;
        let id = match self.command {
            Some(Command::Create(create)) => {
                let Create { tcp, unix_sockets, exit, shell, id, name } = create;
                let checkpoint = Checkpoint { name, exit, tcp, unix_sockets, shell };
                return Ok(legacy.create_checkpoint(&id, checkpoint).await?);
            }
            Some(Command::Delete(Delete { id, name })) => {
                return Ok(legacy.delete_checkpoint(&id, &name).await?);
            }
            Some(Command::List(List { id })) => id,
            None => self.id.context("the id of a container is missing")?,
        };
        let mut table = table("NAME\tTCP\tUNIX SOCKETS\tSHELL");
        for checkpoint in legacy.checkpoints(&id).await? {
            let Checkpoint { name, exit: _, tcp, unix_sockets, shell } = checkpoint;
            table.line(format!("{name}\t{tcp}\t{unix_sockets}\t{shell}"));
        }
        Ok(table.print()?)
    }
}
