//! `ctr images`

mod check;
mod convert;
mod delete;
mod export;
mod import;
mod inspect;
mod label;
mod list;
mod mount;
mod prune;
mod pull;
mod push;
mod tag;
mod unmount;
mod usage;

use anyhow::Result;
use clap::Subcommand;

use crate::cli::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See whether all content of images is there, and whether they are unpacked
    Check(check::Check),
    /// Make an image of another one: layers without compression, or OCI's media types
    Convert(convert::Convert),
    /// Write images into an archive
    Export(export::Export),
    /// Store the images of an archive
    Import(Box<import::Import>),
    /// Show an image with all its parts as a tree
    Inspect(inspect::Inspect),
    /// List images
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Set and clear labels of an image
    Label(label::Label),
    /// Mount the files of an image on a folder
    Mount(mount::Mount),
    /// Unmount an image from a folder
    Unmount(unmount::Unmount),
    /// Fetch an image from a registry and unpack it
    Pull(Box<pull::Pull>),
    /// Send an image to a registry
    Push(Box<push::Push>),
    /// Delete images that no container is made from
    Prune(prune::Prune),
    /// Delete images
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(delete::Delete),
    /// Give an image further names
    Tag(tag::Tag),
    /// Show how much disk space the snapshots of an image take
    Usage(usage::Usage),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Check(command) => command.run(global).await,
            Self::Convert(command) => command.run(global).await,
            Self::Export(command) => command.run(global).await,
            Self::Import(command) => command.run(global).await,
            Self::Inspect(command) => command.run(global).await,
            Self::List(command) => command.run(global).await,
            Self::Label(command) => command.run(global).await,
            Self::Mount(command) => command.run(global).await,
            Self::Unmount(command) => command.run(global).await,
            Self::Pull(command) => command.run(global).await,
            Self::Push(command) => command.run(global).await,
            Self::Prune(command) => command.run(global).await,
            Self::Delete(command) => command.run(global).await,
            Self::Tag(command) => command.run(global).await,
            Self::Usage(command) => command.run(global).await,
        }
    }
}
