//! `ctr tasks attach`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use containerd_client::Fifos;

use crate::{
    attach::{Attachment, exit_code},
    cli::Global,
    console::RawTerminal,
    session,
};

/// Stay with a running task. When it ends, it is deleted, and the exit code is
/// that of its process.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Id of the container
    container: String,
}

impl Attach {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let (_, task) = session::task(global, &self.container).await?;
        let stdio = task.state().await?.stdio;
        let terminal = stdio.terminal.then(RawTerminal::enter).transpose()?;
        let fifos = Fifos::existing(&stdio);
        let streams = fifos.open()?;
        let ended = async {
            let mut attachment = Attachment::new(task.init(), streams, terminal)?;
            let exit = attachment.wait().await?;
            task.delete().await?;
            attachment.drain().await?;
            Ok(exit_code(exit))
        }
        .await;
        if ended.is_err() {
            // The task may go on, and somebody else may attach to it.
            fifos.keep();
        }
        ended
    }
}
