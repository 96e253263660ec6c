//! `ctr tasks kill`

use anyhow::Result;
use clap::Args;
use containerd_client::STOP_SIGNAL_LABEL;

use crate::{cli::Global, session, signal};

/// Send a task a signal: the one that its image names, or else SIGTERM.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Signal, by name or number
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Process that gets the signal, in place of the first
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    exec_id: Option<String>,
    /// Send it to all processes of the task
    #[arg(short, long)]
    all: bool,
    /// Id of the container
    container: String,
}

impl Kill {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let (container, task) = session::task(global, &self.container).await?;
        let labels = &container.record().labels;
        let signal = match self.signal.as_ref().or_else(|| labels.get(STOP_SIGNAL_LABEL)) {
            Some(signal) => signal::parse(signal)?,
            None => signal::SIGTERM,
        };
        match &self.exec_id {
            Some(id) => task.process(id).kill(signal).await?,
            None if self.all => task.kill_all(signal).await?,
            None => task.kill(signal).await?,
        }
        Ok(())
    }
}
