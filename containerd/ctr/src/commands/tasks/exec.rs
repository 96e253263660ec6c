//! `ctr tasks exec`

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{
    NewExec, Process,
    spec::{resolve_user, set_env},
};

use crate::{
    attach::{Attachment, StdioArgs, exit_code},
    cli::Global,
    console::RawTerminal,
    session,
    signal::SIGKILL,
};

/// Run another process in a task. The exit code is that of the process.
#[derive(Debug, Args)]
#[command(override_usage = "ctr tasks exec [OPTIONS] --exec-id ID CONTAINER COMMAND [ARG]...")]
pub(crate) struct Exec {
    /// Id of the process within the task
    #[arg(long, value_name = "ID")]
    exec_id: String,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set a variable of the environment; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// User, with or without group: name or number
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Return as soon as the process runs
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    stdio: StdioArgs,
    /// Id of the container
    #[arg(hide = true)]
    container: String,
    /// Command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, hide = true)]
    command: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let (container, task) = session::task(global, &self.container).await?;
        let spec = container.spec()?;
        let mut process = spec.process().clone().context("the container has no process")?;
        process.set_terminal(Some(self.tty)).set_args(Some(self.command.clone()));
        set_env(&mut process, &self.env);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(user) = &self.user {
            let root = spec.root().as_ref().context("the container has no root filesystem")?;
            process.set_user(resolve_user(root.path(), user)?);
        }

        let terminal = (self.tty && !self.detach).then(RawTerminal::enter).transpose()?;
        let io = self.stdio.io(&self.exec_id, self.tty)?;
        // Also for a process that is left alone: Go's shim waits for a reader of
        // its output before it makes the process.
        let streams = io.open()?;
        let process = task.exec(NewExec::new(&self.exec_id, &process, io.stdio())?).await?;

        let result = async {
            process.start().await?;
            if self.detach {
                drop(streams);
                return Ok(ExitCode::SUCCESS);
            }
            let mut attachment = Attachment::new(&process, streams, terminal)?;
            let exit = attachment.wait().await?;
            process.delete().await?;
            attachment.drain().await?;
            Ok(exit_code(exit))
        }
        .await;

        if result.is_err() {
            discard(&process).await;
        } else if self.detach {
            io.keep();
        }
        result
    }
}

/// Ends and deletes a process that was not started, or that was lost hold of.
async fn discard(process: &Process) {
    // One that was not started cannot be killed, and can be deleted.
    if process.kill(SIGKILL).await.is_ok() && process.wait().await.is_err() {
        return;
    }
    if let Err(error) = process.delete().await
        && !error.is_not_found()
    {
        tracing::error!("cannot clean up: {}", error.report());
    }
}
