//! `ctr containers start`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use containerd_api::legacy::CreateContainerRequest;
use serde::Deserialize;

use super::{
    attach::{self, Attached},
    connect,
};
use crate::{cli::Global, output};

/// Start a container from a bundle (2015). Prints the pid of its process, or
/// has the process's exit code.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Checkpoint to start the container from
    #[arg(short, long, value_name = "NAME")]
    checkpoint: Option<String>,
    /// Connect to the standard streams of the container, and stay until it ends
    #[arg(short, long)]
    attach: bool,
    /// Id of the container
    id: String,
    /// Folder with config.json and rootfs/
    bundle: PathBuf,
}

impl Start {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let bundle = std::path::absolute(&self.bundle)?;
        let path = bundle.to_str().context("the path of the bundle is no text")?;
        let mut request = CreateContainerRequest {
            id: self.id.clone(),
            bundle_path: path.to_owned(),
            checkpoint: self.checkpoint.unwrap_or_default(),
            ..CreateContainerRequest::default()
        };
        let legacy = connect(global).await?;
        if !self.attach {
            output::line(legacy.create(request).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let events = legacy.events().await?;
        let attached = Attached::prepare(&self.id, has_terminal(&bundle)?)?;
        let streams = attached.streams();
        request.stdin = streams.stdin.clone();
        request.stdout = streams.stdout.clone();
        request.stderr = streams.stderr.clone();
        request.console = streams.console.clone();
        let pid = legacy.create(request).await?;
        attach::stay(attached, events, &self.id, pid).await
    }
}

/// Does the container's process have a terminal?
fn has_terminal(bundle: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    struct Spec {
        process: Option<Process>,
    }
    #[derive(Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let path = bundle.join("config.json");
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let spec: Spec =
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
    Ok(spec.process.is_some_and(|process| process.terminal))
}
