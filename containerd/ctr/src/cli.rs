//! Options that come before the command, and the commands.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use containerd_client::{DEFAULT_ADDRESS, DEFAULT_NAMESPACE};

use crate::{
    commands::{
        completion, containers, content, events, images, info, leases, legacy, namespaces, oci,
        plugins, run, shim, snapshots, tasks, version,
    },
    time,
};

/// Command line of a containerd daemon, for administration and debugging.
#[derive(Debug, Parser)]
#[command(name = "ctr", version, disable_version_flag = true)]
#[command(
    after_help = "Commands work on one namespace: see -n. An id names a container and its task."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Print the version
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Show what happens behind the scenes
    #[arg(long)]
    pub(crate) debug: bool,
    /// Socket of the daemon
    #[arg(short, long, env = "CONTAINERD_ADDRESS", default_value = DEFAULT_ADDRESS, value_name = "PATH")]
    pub(crate) address: PathBuf,
    /// Give up after so long, such as 30s or 1m30s; 0 is never
    #[arg(long, value_parser = time::parse_limit, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,
    /// Give up connecting after so long
    #[arg(long, value_parser = time::parse_limit, value_name = "DURATION")]
    pub(crate) connect_timeout: Option<Duration>,
    /// Namespace to work in
    #[arg(short, long, env = "CONTAINERD_NAMESPACE", default_value = DEFAULT_NAMESPACE, value_name = "NAME")]
    pub(crate) namespace: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container and run it
    Run(Box<run::Run>),
    #[command(visible_aliases = ["c", "container"])]
    Containers(containers::Group),
    Checkpoints(legacy::checkpoints::Group),
    /// Work on tasks: containers that live
    #[command(subcommand, visible_aliases = ["t", "task"])]
    Tasks(tasks::Command),
    /// Work on content: what has a digest for a name
    #[command(subcommand)]
    Content(content::Command),
    /// Work on images: names for content that containers are made from
    #[command(subcommand, visible_aliases = ["image", "i"])]
    Images(images::Command),
    /// Work on snapshots: layers of images, and what containers write on top
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshots::Group),
    /// Print events as they come
    #[command(visible_alias = "event")]
    Events(events::Events),
    /// Work on namespaces
    #[command(subcommand, visible_aliases = ["namespace", "ns"])]
    Namespaces(namespaces::Command),
    /// Show the parts of the daemon
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugins::Command),
    /// Work on leases: what keeps things that nothing refers to
    #[command(subcommand, visible_alias = "lease")]
    Leases(leases::Command),
    /// Print the versions of this program and of the daemon
    Version(version::Version),
    /// Print which daemon it is
    Info(info::Info),
    /// Tools for OCI configurations
    #[command(subcommand)]
    Oci(oci::Command),
    /// Talk to a shim, past the daemon
    Shim(shim::Shim),
    /// Print a script that completes commands in a shell
    Completion(completion::Completion),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(command) => return command.run(global).await,
            Self::Tasks(command) => return command.run(global).await,
            Self::Containers(group) => return group.run(global).await,
            Self::Checkpoints(group) => group.run(global).await,
            Self::Content(command) => command.run(global).await,
            Self::Images(command) => command.run(global).await,
            Self::Snapshots(group) => group.run(global).await,
            Self::Events(command) => command.run(global).await,
            Self::Namespaces(command) => command.run(global).await,
            Self::Plugins(command) => command.run(global).await,
            Self::Leases(command) => command.run(global).await,
            Self::Version(command) => command.run(global).await,
            Self::Info(command) => command.run(global).await,
            Self::Oci(command) => command.run(global),
            Self::Shim(command) => command.run(global).await,
            Self::Completion(command) => command.run(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn after_the_container_everything_is_its_command() {
        let line = [
            "ctr", "-n", "x", "run", "--rm", "--rootfs", "/r", "id", "/bin/sh", "-c", "--rm", "-t",
        ];
        let cli = Cli::try_parse_from(line).unwrap();
        let Some(Command::Run(run)) = cli.command else { panic!("not run") };
        assert_eq!(run.args, ["/r", "id", "/bin/sh", "-c", "--rm", "-t"]);
        assert!(run.rm && !run.container.tty);
        assert_eq!(cli.global.namespace, "x");
    }
}
