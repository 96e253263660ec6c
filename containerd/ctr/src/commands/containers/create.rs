//! `ctr containers create`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session, spec::ContainerArgs};

/// Make a container. `ctr tasks start` runs it.
#[derive(Debug, Args)]
#[command(
    override_usage = "ctr containers create [OPTIONS] IMAGE CONTAINER [COMMAND] [ARG]...\n       \
                            ctr containers create [OPTIONS] --rootfs ROOTFS CONTAINER [COMMAND] [ARG]...\n       \
                            ctr containers create [OPTIONS] --config FILE CONTAINER"
)]
pub(crate) struct Create {
    #[command(flatten)]
    container: ContainerArgs,
    /// Image or root filesystem, id of the container, and its command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, hide = true)]
    args: Vec<String>,
}

impl Create {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let namespace = session::namespace(global).await?;
        self.container.create(&namespace, &self.args).await?;
        Ok(())
    }
}
