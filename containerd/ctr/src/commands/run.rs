//! `ctr run`

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::{Container, Image, Namespace, Restore};

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
                            ctr run [OPTIONS] --config FILE CONTAINER\n       \
                            ctr run [OPTIONS] --checkpoint IMAGE CONTAINER")]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    #[command(flatten)]
    stdio: StdioArgs,
    /// Go on from a checkpoint, which says all that is to be said of the container
    #[arg(
        long,
        value_name = "IMAGE",
        conflicts_with_all = ["ContainerArgs", "RuntimeArgs", "SnapshotterArgs"]
    )]
    checkpoint: Option<String>,
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
        let (container, checkpoint) = match &self.checkpoint {
            Some(name) => {
                let checkpoint = namespace.images().get(name).await?;
                (self.restore(&namespace, &checkpoint).await?, Some(checkpoint))
            }
            None => (self.container.create(&namespace, &self.args).await?, None),
        };
        let result = self.start(&container, checkpoint.as_ref()).await;
        if self.rm
            && let Err(error) = container.delete_with_snapshot().await
        {
            tracing::error!("{}", error.report());
        }
        result
    }

    async fn restore(&self, namespace: &Namespace, checkpoint: &Image) -> Result<Container> {
        let [id] = self.args.as_slice() else {
            bail!("with --checkpoint, only the id of the container can be given")
        };
        let parts = Restore::new().image().spec().runtime().files_if_any();
        Ok(namespace.restore(id, checkpoint, &parts).await?)
    }

    async fn start(&self, container: &Container, checkpoint: Option<&Image>) -> Result<ExitCode> {
        let options = StartOptions {
            stdio: &self.stdio,
            detach: self.detach,
            no_pivot: self.container.no_pivot,
            pid_file: self.container.pid_file.as_deref(),
            checkpoint,
        };
        start(container, options).await
    }
}
