//! `ctr tasks delete`

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use containerd_client::{Exit, Fifos, Process};

use crate::{attach::exit_code, cli::Global, session, signal::SIGKILL};

/// Delete tasks that have ended.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kill what still runs
    #[arg(short, long)]
    force: bool,
    /// Delete this process, not the task; the exit code is that of the process
    #[arg(long, value_name = "ID")]
    exec_id: Option<String>,
    /// Ids of the containers
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let namespace = session::namespace(global).await?;
        if let Some(exec_id) = &self.exec_id {
            let [container] = &self.containers[..] else {
                bail!("--exec-id names a process of one task");
            };
            let process = namespace.task(container).await?.process(exec_id);
            return Ok(exit_code(self.delete(&process).await?));
        }
        let mut failed = false;
        for container in &self.containers {
            let deleted = async {
                let task = namespace.task(container).await?;
                self.delete(task.init()).await
            };
            match deleted.await {
                Ok(exit) if exit.status != 0 => {
                    tracing::warn!("task {container} ended with exit code {}", exit.status);
                }
                Ok(_) => {}
                Err(error) => {
                    eprintln!("ctr: {error:#}");
                    failed = true;
                }
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn delete(&self, process: &Process) -> Result<Exit> {
        let state = process.state().await?;
        if self.force && state.exit.is_none() {
            match process.kill(SIGKILL).await {
                Ok(()) => drop(process.wait().await?),
                // It ended by itself, or was never started.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let exit = process.delete().await?;
        // Whoever made the FIFOs may be gone.
        drop(Fifos::existing(&state.stdio));
        Ok(exit)
    }
}
