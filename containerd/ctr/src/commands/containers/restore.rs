//! `ctr containers restore`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use containerd_client::{Container, Image, Namespace, PullOptions, Restore as Parts, Where};

use crate::{
    attach::StdioArgs,
    cli::Global,
    commands::tasks::start::{StartOptions, Started, begin},
    progress::Display,
    registry::RegistryArgs,
    session,
};

/// Make a container from a saved one, and start it. As with containerd's `ctr`,
/// one with a terminal is stayed with, and others are left alone. One that cannot
/// be started is removed again.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Restore what the container had written to its snapshot
    #[arg(long)]
    rw: bool,
    /// Go on with the task that was saved, with CRIU
    #[arg(long)]
    live: bool,
    /// Stay until the process has ended, and delete its task then
    #[arg(long, conflicts_with = "detach")]
    attach: bool,
    /// Return as soon as the process runs, also if it has a terminal
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    stdio: StdioArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Id of the new container
    container: String,
    /// The image; it is fetched if it is not there
    reference: String,
}

impl Restore {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let namespace = session::namespace(global).await?;
        let checkpoint = self.checkpoint(&namespace).await?;
        let mut parts = Parts::new().image().spec().runtime();
        if self.rw {
            parts = parts.files();
        }
        let container = namespace.restore(&self.container, &checkpoint, &parts).await?;
        match self.begin(&container, &checkpoint).await {
            Ok(started) => started.stay().await,
            Err(error) => {
                if let Err(error) = container.delete_with_snapshot().await {
                    tracing::error!("cannot clean up: {}", error.report());
                }
                Err(error)
            }
        }
    }

    async fn begin(&self, container: &Container, checkpoint: &Image) -> Result<Started> {
        let spec = container.spec()?;
        let tty = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        let options = StartOptions {
            stdio: &self.stdio,
            detach: self.detach || !(tty || self.attach),
            no_pivot: false,
            pid_file: None,
            checkpoint: self.live.then_some(checkpoint),
        };
        begin(container, options).await
    }

    async fn checkpoint(&self, namespace: &Namespace) -> Result<Image> {
        match namespace.images().get(&self.reference).await {
            Err(e) if e.is_not_found() => {}
            image => return Ok(image?),
        }
        let display = Display::new();
        let options = PullOptions {
            registry: self.registry.options()?,
            place: Where::Local,
            progress: Some(display.on_progress()),
            ..PullOptions::default()
        };
        let fetched = namespace.fetch(&self.reference, &options).await;
        display.done()?;
        Ok(fetched?)
    }
}
