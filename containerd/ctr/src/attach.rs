//! Standard streams between this program and a process, and staying with the
//! process until it ends.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_client::{Exit, FIFO_DIR, Fifos, Process, Stdin, Stdio, Streams};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    console::{self, RawTerminal},
    signal,
};

/// Where the standard streams of a process lead.
#[derive(Debug, Default, Args)]
pub(crate) struct StdioArgs {
    /// Let output go nowhere, and give no input
    #[arg(long, conflicts_with = "log_uri")]
    null_io: bool,
    /// Let output go to a log: file:///path, or binary:///program?key=value
    #[arg(long, value_name = "URI")]
    log_uri: Option<String>,
    /// Folder for the FIFOs between this program and the process
    #[arg(long, value_name = "DIR")]
    fifo_dir: Option<PathBuf>,
}

/// Standard streams of a process that is to be made.
#[derive(Debug)]
pub(crate) enum Io {
    /// Through FIFOs, to this program.
    Fifos(Fifos),
    /// Somewhere else.
    Elsewhere(Stdio),
}

impl StdioArgs {
    /// Makes the FIFOs, if the process gets any.
    pub(crate) fn io(&self, id: &str, terminal: bool) -> Result<Io> {
        if terminal && (self.null_io || self.log_uri.is_some()) {
            bail!("a terminal cannot be used together with --null-io or --log-uri");
        }
        if let Some(uri) = &self.log_uri {
            if !uri.contains("://") {
                bail!("log URI {uri:?} has no scheme, such as file:///var/log/{id}");
            }
            return Ok(Io::Elsewhere(Stdio::log_uri(uri)));
        }
        if self.null_io {
            return Ok(Io::Elsewhere(Stdio::null()));
        }
        let base = self.fifo_dir.clone().unwrap_or_else(|| FIFO_DIR.into());
        Ok(Io::Fifos(Fifos::create(base, id, terminal)?))
    }
}

impl Io {
    /// What the daemon is told.
    pub(crate) fn stdio(&self) -> Stdio {
        match self {
            Self::Fifos(fifos) => fifos.stdio().clone(),
            Self::Elsewhere(stdio) => stdio.clone(),
        }
    }

    /// Opens this side.
    pub(crate) fn open(&self) -> Result<Streams> {
        match self {
            Self::Fifos(fifos) => Ok(fifos.open()?),
            Self::Elsewhere(_) => Ok(Streams::default()),
        }
    }

    /// Leaves the FIFOs to the process, which outlives this program.
    pub(crate) fn keep(self) {
        if let Self::Fifos(fifos) = self {
            fifos.keep();
        }
    }
}

/// This program's side of a process: its streams are copied, and signals and
/// the terminal's size passed on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Attachment {
    process: Process,
    outputs: JoinSet<Result<()>>,
    _input: JoinSet<()>,
    _signals: JoinSet<()>,
    _size: Option<JoinSet<()>>,
    _terminal: Option<RawTerminal>,
}

impl Attachment {
    /// Starts to copy, for a process that was started: before, it takes neither
    /// signals nor the end of its input. `terminal` is for one that has one.
    pub(crate) fn new(
        process: &Process,
        streams: Streams,
        terminal: Option<RawTerminal>,
    ) -> Result<Self> {
        let mut outputs = JoinSet::new();
        if let Some(stdout) = streams.stdout {
            outputs.spawn(copy_output(stdout, tokio::io::stdout(), "stdout"));
        }
        if let Some(stderr) = streams.stderr {
            outputs.spawn(copy_output(stderr, tokio::io::stderr(), "stderr"));
        }
        let mut input = JoinSet::new();
        if let Some(stdin) = streams.stdin {
            let process = process.clone();
            input.spawn(async move {
                copy_input(stdin).await;
                if let Err(error) = process.close_stdin().await
                    && !error.is_not_found()
                {
                    tracing::warn!("cannot end the input: {}", error.report());
                }
            });
        }
        Ok(Self {
            process: process.clone(),
            outputs,
            _input: input,
            _signals: signal::forward(process)?,
            _size: terminal.is_some().then(|| console::follow_size(process)).transpose()?,
            _terminal: terminal,
        })
    }

    /// Stays until the process has ended, also while the daemon is away; or
    /// until there is nobody to give its output to.
    pub(crate) async fn wait(&mut self) -> Result<Exit> {
        let ended = self.process.wait_through_restarts();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                exit = &mut ended => return Ok(exit?),
                Some(copied) = self.outputs.join_next() => copied??,
            }
        }
    }

    /// Copies what is left of the output. It ends when the shim lets go of the
    /// streams, which it does at the latest when the process is deleted.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        while let Some(copied) = self.outputs.join_next().await {
            copied??;
        }
        Ok(())
    }
}

async fn copy_output(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    name: &str,
) -> Result<()> {
    let copy = async {
        tokio::io::copy(&mut from, &mut to).await?;
        to.flush().await
    };
    copy.await.with_context(|| format!("copy {name}"))
}

/// A process need not read its input to the end, nor at all.
async fn copy_input(to: Stdin) {
    let copy = async {
        tokio::io::copy(&mut tokio::io::stdin(), &mut to.open().await?).await?;
        anyhow::Ok(())
    };
    if let Err(error) = copy.await {
        tracing::debug!("input ended: {error:#}");
    }
}

/// Copies standard input to a process and its output back, until the output
/// ends. This is for those that know no more of the process than its streams.
pub(crate) async fn copy(streams: Streams) -> Result<()> {
    let mut outputs = JoinSet::new();
    if let Some(stdout) = streams.stdout {
        outputs.spawn(copy_output(stdout, tokio::io::stdout(), "stdout"));
    }
    if let Some(stderr) = streams.stderr {
        outputs.spawn(copy_output(stderr, tokio::io::stderr(), "stderr"));
    }
    let mut input = JoinSet::new();
    if let Some(stdin) = streams.stdin {
        input.spawn(copy_input(stdin));
    }
    while let Some(copied) = outputs.join_next().await {
        copied??;
    }
    Ok(())
}

/// The exit code of this program, from that of a process.
pub(crate) fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from((exit.status & 0xff) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_excludes_logs() {
        let args = StdioArgs { log_uri: Some("file:///x".into()), ..StdioArgs::default() };
        assert!(args.io("web", true).is_err());
        assert_eq!(args.io("web", false).unwrap().stdio().stdout, "file:///x");
    }

    #[test]
    fn a_log_needs_a_scheme() {
        let args = StdioArgs { log_uri: Some("/var/log/x".into()), ..StdioArgs::default() };
        assert!(args.io("web", false).is_err());
    }
}
