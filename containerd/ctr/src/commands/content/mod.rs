//! `ctr content`

mod active;
mod delete;
mod edit;
mod get;
mod ingest;
mod label;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what is being written
    Active(active::Active),
    /// Delete content
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(delete::Delete),
    /// Change content in an editor and print the digest of what came of it
    Edit(edit::Edit),
    /// Print content
    Get(get::Get),
    /// Store standard input
    Ingest(ingest::Ingest),
    /// Set labels of content and print all it has
    Label(label::Label),
    /// List content
    #[command(visible_alias = "ls")]
    List(list::List),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Active(command) => command.run(global).await,
            Self::Delete(command) => command.run(global).await,
            Self::Edit(command) => command.run(global).await,
            Self::Get(command) => command.run(global).await,
            Self::Ingest(command) => command.run(global).await,
            Self::Label(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
        }
    }
}
