//! `ctr containers exec`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use containerd_api::legacy::{AddProcessRequest, User};

use super::{
    attach::{self, Attached},
    connect,
};
use crate::cli::Global;

/// Run another process in a container (2015).
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Id of the container
    #[arg(long, value_name = "ID")]
    id: String,
    /// Connect to the standard streams of the process, and stay until it ends
    #[arg(short, long)]
    attach: bool,
    /// Working directory
    #[arg(long, value_name = "DIR", default_value = "")]
    cwd: String,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable of the environment; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Number of the user
    #[arg(short, long, value_name = "UID", default_value_t = 0)]
    uid: u32,
    /// Number of the group
    #[arg(short, long, value_name = "GID", default_value_t = 0)]
    gid: u32,
    /// Command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let legacy = connect(global).await?;
        let mut request = AddProcessRequest {
            id: self.id.clone(),
            terminal: self.tty,
            user: Some(User { uid: self.uid, gid: self.gid, additional_gids: Vec::new() }),
            args: self.command,
            env: self.env,
            cwd: self.cwd,
            ..AddProcessRequest::default()
        };
        if !self.attach {
            legacy.add_process(request).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let events = legacy.events().await?;
        let attached = Attached::prepare(&self.id, self.tty)?;
        let streams = attached.streams();
        request.stdin = streams.stdin.clone();
        request.stdout = streams.stdout.clone();
        request.stderr = streams.stderr.clone();
        request.console = streams.console.clone();
        let pid = legacy.add_process(request).await?;
        attach::stay(attached, events, &self.id, pid).await
    }
}
