//! `ctr tasks checkpoint`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use containerd_client::{CheckpointOptions, ErrorKind, Status, Task, TaskCheckpoint};

use crate::{cli::Global, output, session, signal};

/// Write a task to disk, with CRIU: as an image, whose name is printed, or to a
/// folder.
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// End the task when it is on disk
    #[arg(long)]
    exit: bool,
    /// Folder that CRIU writes the task to, in place of an image
    #[arg(long, value_name = "DIR")]
    image_path: Option<String>,
    /// Folder for CRIU's own files and logs
    #[arg(long, value_name = "DIR")]
    work_path: Option<String>,
    #[command(flatten)]
    allow: AllowArgs,
    /// Id of the container
    container: String,
}

/// What CRIU may do that it does not do by itself. A restore then may do it too.
#[derive(Debug, Args)]
pub(crate) struct AllowArgs {
    /// Keep open TCP connections
    #[arg(long)]
    tcp: bool,
    /// Keep unix sockets whose other end is outside
    #[arg(long)]
    unix_sockets: bool,
    /// Allow processes with a terminal from outside
    #[arg(long)]
    shell: bool,
    /// Keep file locks
    #[arg(long)]
    file_locks: bool,
    /// Namespace that is restored empty, such as network; may be given many times
    #[arg(long, value_name = "TYPE")]
    empty_ns: Vec<String>,
    /// What becomes of cgroups: ignore, soft, full or strict
    #[arg(long, value_name = "MODE")]
    cgroups_mode: Option<String>,
}

impl AllowArgs {
    /// The options of the runc shim.
    pub(crate) fn options(&self) -> CheckpointOptions {
        CheckpointOptions {
            open_tcp: self.tcp,
            external_unix_sockets: self.unix_sockets,
            terminal: self.shell,
            file_locks: self.file_locks,
            empty_namespaces: self.empty_ns.clone(),
            cgroups_mode: self.cgroups_mode.clone().unwrap_or_default(),
            ..CheckpointOptions::default()
        }
    }
}

impl Checkpoint {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let (_, task) = session::task(global, &self.container).await?;
        let options = CheckpointOptions {
            exit: self.exit,
            image_path: absolute(self.image_path)?,
            work_path: absolute(self.work_path)?,
            ..self.allow.options()
        };
        let checkpoint = TaskCheckpoint::new().options(options);
        let write = async {
            if let Some(image) = task.checkpoint(&checkpoint).await? {
                output::line(&image.name)?;
            }
            Ok(())
        };
        leaving_it_running(Some(&task), write).await
    }
}

/// Works at what pauses a task meanwhile. When this program is told to end, the
/// task goes on before it does, unless it was paused before; told twice, it ends
/// at once.
pub(crate) async fn leaving_it_running(
    task: Option<&Task>,
    work: impl Future<Output = Result<()>>,
) -> Result<ExitCode> {
    let mut running = None;
    if let Some(task) = task
        && task.state().await?.status == Status::Running
    {
        running = Some(task);
    }
    let code = tokio::select! {
        biased;
        done = work => return done.map(|()| ExitCode::SUCCESS),
        code = signal::told_to_end() => code?,
    };
    if let Some(task) = running {
        tracing::warn!("{} goes on when it is no longer being written", task.id());
        tokio::select! {
            biased;
            resumed = resume(task) => resumed?,
            _ = signal::told_to_end() => {}
        }
    }
    Ok(ExitCode::from(code))
}

/// Lets it go on, unless it does so already, or has ended.
async fn resume(task: &Task) -> Result<()> {
    match task.resume().await {
        Err(e) if e.kind() == ErrorKind::FailedPrecondition || e.is_not_found() => Ok(()),
        resumed => Ok(resumed?),
    }
}

/// The daemon and CRIU are in folders of their own.
fn absolute(path: Option<String>) -> Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    let path = std::path::absolute(path)?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{path:?} is not UTF-8"))
}
