//! `ctr version`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, output, session};

/// Print the versions of this program and of the daemon.
#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        // Before the daemon is asked: it may not be there.
        output::text(format_args!(
            "Client:\n  Version:  {}\n  Revision: {}\n\n",
            env!("CARGO_PKG_VERSION"),
            option_env!("CONTAINERD_REVISION").unwrap_or("unknown"),
        ))?;
        let client = session::connect(global).await?;
        let version = client.version().await?;
        let server = client.server().await?;
        output::text(format_args!(
            "Server:\n  Version:  {}\n  Revision: {}\n  UUID: {}\n",
            version.version, version.revision, server.uuid,
        ))?;
        Ok(())
    }
}
