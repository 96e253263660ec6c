//! `ctr shim exec`

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{FIFO_DIR, Fifos, Stdio, spec::set_env};
use oci_spec::runtime::Process;
use protobuf::well_known_types::any::Any;
use shim_protocol::{
    any::OCI_PROCESS_URL,
    proto::task_v2::{ExecProcessRequest, ResizePtyRequest, StartRequest},
};

use crate::{attach::copy, console::RawTerminal, output};

use super::ShimClient;

/// Run another process in a container and print its pid.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// File with the process, as in an OCI configuration
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Set a variable of the environment; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Copy its output until it ends
    #[arg(short, long)]
    attach: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// FIFO for its input
    #[arg(long, value_name = "PATH")]
    stdin: Option<String>,
    /// FIFO for its output
    #[arg(long, value_name = "PATH")]
    stdout: Option<String>,
    /// FIFO for its errors
    #[arg(long, value_name = "PATH")]
    stderr: Option<String>,
    /// Id of the process within the container
    exec_id: String,
    /// Id of the container, if it is not the shim's
    container: Option<String>,
}

impl Exec {
    pub(super) async fn run(self, client: &ShimClient, shim: Option<String>) -> Result<()> {
        let id = self.container.clone().or(shim).context("the id of the container is missing")?;
        let terminal = (self.attach && self.tty).then(RawTerminal::enter).transpose()?;
        let given = [&self.stdin, &self.stdout, &self.stderr];
        let own = given.iter().all(|path| path.is_none()) && self.attach;
        let fifos = if own {
            Fifos::create(FIFO_DIR, &self.exec_id, self.tty)?
        } else {
            let path = |path: &Option<String>| path.clone().unwrap_or_default();
            Fifos::existing(&Stdio {
                stdin: path(&self.stdin),
                stdout: path(&self.stdout),
                stderr: path(&self.stderr),
                terminal: self.tty,
            })
        };
        let streams = if self.attach { Some(fifos.open()?) } else { None };

        let stdio = fifos.stdio().clone();
        let request = ExecProcessRequest {
            id: id.clone(),
            exec_id: self.exec_id.clone(),
            spec: Some(self.process()?).into(),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: self.tty,
            ..Default::default()
        };
        if !own {
            // They are the caller's.
            fifos.keep();
        }
        client.exec(&request).await?;
        let exec_id = self.exec_id.clone();
        let request = StartRequest { id: id.clone(), exec_id, ..Default::default() };
        let started = client.start(&request).await?;
        output::line(format_args!("exec running with pid {}", started.pid))?;

        if terminal.is_some()
            && let Some((width, height)) = terminal_size::terminal_size()
        {
            let (width, height) = (width.0.into(), height.0.into());
            let exec_id = self.exec_id.clone();
            let request = ResizePtyRequest { id, exec_id, width, height, ..Default::default() };
            client.resize_pty(&request).await?;
        }
        let Some(streams) = streams else { return Ok(()) };
        copy(streams).await
    }

    fn process(&self) -> Result<Any> {
        let file = self.spec.display();
        let bytes = fs::read(&self.spec).with_context(|| format!("read {file}"))?;
        let mut process: Process =
            serde_json::from_slice(&bytes).with_context(|| format!("read {file}"))?;
        process.set_terminal(Some(self.tty));
        set_env(&mut process, &self.env);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        let value = serde_json::to_vec(&process)?;
        Ok(Any { type_url: OCI_PROCESS_URL.into(), value, ..Default::default() })
    }
}
