//! `ctr snapshots`

mod commit;
mod delete;
mod diff;
mod info;
mod label;
mod list;
mod mounts;
mod prepare;
mod tree;
mod unpack;
mod usage;
mod view;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Args, Subcommand};
use containerd_client::{RootMount, Snapshots};

use crate::{cli::Global, output, session};

/// Label that keeps something from being collected as garbage.
const ROOT_LABEL: &str = "containerd.io/gc.root";

/// Work on snapshots: layers of images, and what containers write on top
#[derive(Debug, Args)]
pub(crate) struct Group {
    /// Which snapshotter; empty for the one of the namespace
    #[arg(
        long,
        global = true,
        env = "CONTAINERD_SNAPSHOTTER",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    snapshotter: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fix an active snapshot under a name
    Commit(commit::Commit),
    /// Remove snapshots
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(delete::Delete),
    /// Print what two snapshots differ by, as a layer
    Diff(diff::Diff),
    /// Print what is known of a snapshot
    Info(info::Info),
    /// Set labels of a snapshot and print all it has
    Label(label::Label),
    /// List snapshots
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Print the commands that mount a snapshot
    #[command(visible_aliases = ["m", "mount"])]
    Mounts(mounts::Mounts),
    /// Make a snapshot that can be written to
    Prepare(prepare::Prepare),
    /// Print which snapshots build upon which
    Tree(tree::Tree),
    /// Unpack an image into snapshots
    Unpack(unpack::Unpack),
    /// Print how much disk snapshots take
    Usage(usage::Usage),
    /// Make a snapshot that is only read
    View(view::View),
}

impl Group {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        let snapshotter = namespace.snapshotter(&self.snapshotter).await?;
        let snapshots = namespace.snapshots(&snapshotter);
        match self.command {
            Command::Commit(command) => command.run(&snapshots).await,
            Command::Delete(command) => command.run(&snapshots).await,
            Command::Diff(command) => command.run(&namespace, &snapshots).await,
            Command::Info(command) => command.run(&snapshots).await,
            Command::Label(command) => command.run(&snapshots).await,
            Command::List(command) => command.run(&snapshots).await,
            Command::Mounts(command) => command.run(&snapshots).await,
            Command::Prepare(command) => command.run(&snapshots).await,
            Command::Tree(command) => command.run(&snapshots).await,
            Command::Unpack(command) => command.run(&namespace, &snapshotter).await,
            Command::Usage(command) => command.run(&snapshots).await,
            Command::View(command) => command.run(&snapshots).await,
        }
    }
}

/// How to print the mounts of a new snapshot.
#[derive(Debug, Args)]
struct Mounting {
    /// Print the commands that mount it there
    #[arg(short, long, value_name = "PATH")]
    target: Option<String>,
    /// Print its mounts as JSON
    #[arg(long)]
    mounts: bool,
}

impl Mounting {
    fn print(&self, mounts: &[RootMount]) -> Result<()> {
        if let Some(target) = self.target.as_deref().filter(|target| !target.is_empty()) {
            print_commands(target, mounts)?;
        }
        if self.mounts {
            // The names are Go's.
            let mounts: Vec<_> = mounts
                .iter()
                .map(|mount| {
                    serde_json::json!({
                        "Type": mount.kind,
                        "Source": mount.source,
                        "Target": mount.target,
                        "Options": mount.options,
                    })
                })
                .collect();
            crate::json::print(&mounts)?;
        }
        Ok(())
    }
}

/// Prints the commands that mount something on `target`.
fn print_commands(target: &str, mounts: &[RootMount]) -> Result<()> {
    for mount in mounts {
        let options = match mount.options.is_empty() {
            true => String::new(),
            false => format!(" -o {}", mount.options.join(",")),
        };
        let mut path = Path::new(target).to_owned();
        if !mount.target.is_empty() {
            path.push(mount.target.trim_start_matches('/'));
        }
        let path = path.display();
        output::line(format!("mount -t {} {} {path}{options}", mount.kind, mount.source))?;
    }
    Ok(())
}

/// Labels of a snapshot that stays although nothing refers to it.
fn kept() -> BTreeMap<String, String> {
    BTreeMap::from([(ROOT_LABEL.to_owned(), now())])
}

/// The present time in RFC 3339.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = i64::try_from(seconds).unwrap_or_default();
    prost_types::Timestamp { seconds, nanos: 0 }.to_string()
}

/// All snapshots with what is to be done about them.
async fn all(snapshots: &Snapshots) -> Result<Vec<containerd_client::SnapshotInfo>> {
    Ok(snapshots.list(&[]).await?)
}
