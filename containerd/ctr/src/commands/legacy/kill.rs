//! `ctr containers kill`

use anyhow::Result;
use clap::Args;

use super::connect;
use crate::{cli::Global, signal};

/// Send a signal to a process of a container (2015).
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Process that gets the signal, in place of the first
    #[arg(short, long, value_name = "PID", default_value_t = 0)]
    pid: u32,
    /// Signal, by number or name
    #[arg(short, long, value_name = "SIGNAL", default_value = "15")]
    signal: String,
    /// Id of the container
    id: String,
}

impl Kill {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let signal = signal::parse(&self.signal)?;
        Ok(connect(global).await?.signal(&self.id, self.pid, signal).await?)
    }
}
