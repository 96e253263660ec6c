//! `ctr content`

mod active;
mod delete;
mod edit;
mod fetch;
mod fetch_blob;
mod fetch_object;
mod get;
mod ingest;
mod label;
mod list;
mod prune;
mod push_object;

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
    /// Fetch all content of an image, and give it its name
    Fetch(Box<fetch::Fetch>),
    /// Print blobs of a repository by their digests
    FetchBlob(Box<fetch_blob::FetchBlob>),
    /// Print what a reference stands for in a registry
    FetchObject(Box<fetch_object::FetchObject>),
    /// Print content
    Get(get::Get),
    /// Store standard input
    Ingest(ingest::Ingest),
    /// Set labels of content and print all it has
    Label(label::Label),
    /// List content
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Let go of content
    #[command(subcommand)]
    Prune(prune::Prune),
    /// Send content to a repository
    PushObject(Box<push_object::PushObject>),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Active(command) => command.run(global).await,
            Self::Delete(command) => command.run(global).await,
            Self::Edit(command) => command.run(global).await,
            Self::Fetch(command) => command.run(global).await,
            Self::FetchBlob(command) => command.run().await,
            Self::FetchObject(command) => command.run().await,
            Self::Get(command) => command.run(global).await,
            Self::Ingest(command) => command.run(global).await,
            Self::Label(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
            Self::Prune(command) => command.run(global).await,
            Self::PushObject(command) => command.run(global).await,
        }
    }
}
