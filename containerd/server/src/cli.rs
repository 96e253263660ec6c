//! The command line, with containerd's words and flags.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::config::{self, DEFAULT_ADDRESS, DEFAULT_PATH, Overrides};

/// Version of the daemon.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Source revision the daemon was built from; whoever builds it says which.
pub(crate) const REVISION: &str = match option_env!("CONTAINERD_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// A container daemon.
///
/// Without a command, the daemon runs in the foreground.
#[derive(Debug, Parser)]
#[command(name = "containerd", disable_version_flag = true)]
pub(crate) struct Cli {
    /// Path to the configuration file.
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How much to log: trace, debug, info, warn, error, fatal or panic.
    #[arg(short, long, global = true, value_name = "LEVEL", value_parser = level)]
    log_level: Option<LevelFilter>,

    /// Path of the socket for clients.
    #[arg(short, long, visible_alias = "listen", global = true, value_name = "PATH")]
    address: Option<PathBuf>,

    /// Folder of what outlives a reboot.
    #[arg(long, global = true, value_name = "FOLDER")]
    root: Option<PathBuf>,

    /// Folder of what does not.
    #[arg(long, visible_alias = "state-dir", global = true, value_name = "FOLDER")]
    state: Option<PathBuf>,

    /// Log at level debug, unless a level is given.
    #[arg(long, global = true)]
    debug: bool,

    /// Name of this instance, for clients of the APIs of 2015.
    #[arg(long, global = true, value_name = "NAME")]
    id: Option<String>,

    /// How many containers are started at the same time; 0 is no limit.
    #[arg(long, global = true, value_name = "NUMBER")]
    concurrency: Option<usize>,

    /// How often figures of the daemon are logged, such as 60s; 0 is never.
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    metrics_interval: Option<Duration>,

    /// Tell clients of the APIs of 2015 when the kernel kills for want of memory.
    #[arg(long, global = true)]
    oom_notify: bool,

    /// Print the version.
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(crate) version: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check that what is on disk is whole, while no daemon uses it.
    ///
    /// Says what is damaged, what a daemon that was killed has left and the next
    /// one removes, and what is worth a note. Fails if anything is damaged.
    Check(CheckArgs),
    /// Print configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publish an event whose content, an Any, is read from standard input.
    ///
    /// Older shims deliver their events this way.
    Publish {
        /// Topic of the event, such as /tasks/exit.
        #[arg(long)]
        topic: String,
        /// Namespace that the event belongs to.
        #[arg(long)]
        namespace: String,
    },
}

/// How to check.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CheckArgs {
    /// Compare lengths only, instead of reading all content.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Fail for what a daemon that was killed has left, too.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration that holds without a file.
    Default,
    /// Print the configuration that holds with the file and its imports.
    Dump,
}

impl Cli {
    /// The file to read. One that was named must exist; the usual one need not.
    pub(crate) fn config_file(&self) -> Option<PathBuf> {
        self.config
            .clone()
            .or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()))
    }

    /// What is set by flags.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            root: self.root.clone(),
            state: self.state.clone(),
            address: self.address.clone(),
            log_level: self.log_level.or(self.debug.then_some(LevelFilter::DEBUG)),
            id: self.id.clone(),
            concurrency: self.concurrency,
            metrics_interval: self.metrics_interval,
            oom_notify: self.oom_notify,
        }
    }

    /// Where a running daemon is found.
    pub(crate) fn daemon_address(&self) -> PathBuf {
        self.address.clone().unwrap_or_else(|| DEFAULT_ADDRESS.into())
    }
}

fn level(name: &str) -> Result<LevelFilter, String> {
    config::parse_level(name).map_err(|e| e.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shims_publish_with_the_address_before_the_command() {
        let cli = Cli::try_parse_from([
            "containerd",
            "--address",
            "/a",
            "publish",
            "--topic",
            "/t",
            "--namespace",
            "n",
        ])
        .unwrap();
        assert_eq!(cli.daemon_address(), PathBuf::from("/a"));
        assert!(matches!(cli.command, Some(Command::Publish { topic, .. }) if topic == "/t"));
    }

    #[test]
    fn options_of_2015() {
        let line = [
            "containerd",
            "--id",
            "box",
            "--debug",
            "--state-dir",
            "/s",
            "--concurrency",
            "3",
            "--metrics-interval",
            "1m30s",
            "--listen",
            "/l",
            "--oom-notify",
        ];
        let flags = Cli::try_parse_from(line).unwrap().overrides();
        assert_eq!(flags.id.as_deref(), Some("box"));
        assert_eq!(flags.log_level, Some(LevelFilter::DEBUG));
        assert_eq!((flags.state, flags.address), (Some("/s".into()), Some("/l".into())));
        assert_eq!(flags.concurrency, Some(3));
        assert_eq!(flags.metrics_interval, Some(Duration::from_secs(90)));
        assert!(flags.oom_notify);
        let louder = ["containerd", "--debug", "--log-level", "warn"];
        let flags = Cli::try_parse_from(louder).unwrap().overrides();
        assert_eq!(flags.log_level, Some(LevelFilter::WARN));
        assert!(Cli::try_parse_from(["containerd", "--metrics-interval", "soon"]).is_err());
    }

    #[test]
    fn short_flags() {
        let cli = Cli::try_parse_from(["containerd", "-c", "/c", "-l", "debug", "-a", "/a"]);
        let cli = cli.unwrap();
        assert_eq!(cli.config_file(), Some("/c".into()));
        assert_eq!(cli.overrides().log_level, Some(LevelFilter::DEBUG));
    }
}
