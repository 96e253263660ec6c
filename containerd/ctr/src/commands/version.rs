//! `ctr version`

use anyhow::Result;
use clap::Args;

use crate::{cli::Global, session};

/// Print the versions of this program and of the daemon.
#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        println!("Client:");
        println!("  Version:  v{}", env!("CARGO_PKG_VERSION"));
        println!("  Revision: {}", option_env!("CONTAINERD_REVISION").unwrap_or("unknown"));
        println!();
        let client = session::connect(global).await?;
        let version = client.version().await?;
        let server = client.server().await?;
        println!("Server:");
        println!("  Version:  {}", version.version);
        println!("  Revision: {}", version.revision);
        println!("  UUID: {}", server.uuid);
        Ok(())
    }
}
