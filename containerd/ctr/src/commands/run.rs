//! `ctr run`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use containerd_client::Container;

use crate::{
    attach::StdioArgs,
    cli::Global,
    commands::tasks::start::{StartOptions, start},
    session,
    spec::ContainerArgs,
};

/// Make a container and run it. The exit code is that of its process.
#[derive(Debug, Args)]
#[command(override_usage = "ctr run [OPTIONS] IMAGE CONTAINER [COMMAND] [ARG]...\n       \
                            ctr run [OPTIONS] --rootfs ROOTFS CONTAINER [COMMAND] [ARG]...\n       \
                            ctr run [OPTIONS] --config FILE CONTAINER")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    #[command(flatten)]
    stdio: StdioArgs,
    /// Delete the container with its snapshot when its process has ended
    #[arg(long, conflicts_with = "detach")]
    pub(crate) rm: bool,
    /// Return as soon as the process runs
    #[arg(short, long)]
    detach: bool,
    /// Image or root filesystem, id of the container, and its command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, hide = true)]
    pub(crate) args: Vec<String>,
}

impl Run {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let namespace = session::namespace(global).await?;
        let container = self.container.create(&namespace, &self.args).await?;
        let result = self.start(&container).await;
        if self.rm
            && let Err(error) = container.delete_with_snapshot().await
        {
            tracing::error!("{}", error.report());
        }
        result
    }

    async fn start(&self, container: &Container) -> Result<ExitCode> {
        let options = StartOptions {
            stdio: &self.stdio,
            detach: self.detach,
            no_pivot: self.container.no_pivot,
            pid_file: self.container.pid_file.as_deref(),
        };
        start(container, options).await
    }
}
