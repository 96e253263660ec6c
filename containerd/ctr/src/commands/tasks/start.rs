//! `ctr tasks start`, and the second half of `ctr run`

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{Container, ErrorKind, Image, NewTask, Task};

use crate::{
    attach::{Attachment, Io, StdioArgs, exit_code},
    cli::Global,
    console::RawTerminal,
    session,
    signal::SIGKILL,
    spec,
};

/// Start a container that was made before. The exit code is that of its
/// process.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    stdio: StdioArgs,
    /// Make the root filesystem the root without pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// Write the pid of the process to a file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Return as soon as the process runs
    #[arg(short, long)]
    detach: bool,
    /// Id of the container
    container: String,
}

impl Start {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let container = session::namespace(global).await?.container(&self.container).await?;
        let options = StartOptions {
            stdio: &self.stdio,
            detach: self.detach,
            no_pivot: self.no_pivot,
            pid_file: self.pid_file.as_deref(),
            checkpoint: None,
        };
        start(&container, options).await
    }
}

/// How to start a container.
pub(crate) struct StartOptions<'a> {
    pub(crate) stdio: &'a StdioArgs,
    pub(crate) detach: bool,
    pub(crate) no_pivot: bool,
    pub(crate) pid_file: Option<&'a Path>,
    /// The image that the task goes on from.
    pub(crate) checkpoint: Option<&'a Image>,
}

/// A task that runs.
pub(crate) struct Started {
    task: Task,
    io: Io,
    /// Unless it is detached.
    attachment: Option<Attachment>,
}

/// Makes the container's task and starts it. Unless it is detached, stays until
/// it has ended, and deletes it.
pub(crate) async fn start(container: &Container, options: StartOptions<'_>) -> Result<ExitCode> {
    begin(container, options).await?.stay().await
}

/// Makes the container's task and starts it. When that fails, there is no task.
pub(crate) async fn begin(container: &Container, options: StartOptions<'_>) -> Result<Started> {
    let spec = container.spec()?;
    let tty = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    let terminal = (tty && !options.detach).then(RawTerminal::enter).transpose()?;

    let io = options.stdio.io(container.id(), tty)?;
    // Also for a process that is left alone: Go's shim waits for a reader of its
    // output before it makes the process.
    let streams = io.open()?;
    let mut task = NewTask::new(io.stdio());
    if let Some(any) = spec::task_options(container, options.no_pivot)? {
        task = task.options(any);
    }
    if let Some(checkpoint) = options.checkpoint {
        task = task.from_checkpoint(container.namespace(), checkpoint).await?;
    }
    let task = container.create_task(task).await?;

    let attached = async {
        if let Some(file) = options.pid_file {
            write_pid(file, task.pid())?;
        }
        task.start().await?;
        match options.detach {
            true => Ok(None),
            false => Attachment::new(task.init(), streams, terminal).map(Some),
        }
    };
    match attached.await {
        Ok(attachment) => Ok(Started { task, io, attachment }),
        Err(error) => {
            discard(&task).await;
            Err(error)
        }
    }
}

impl Started {
    /// Unless it is detached, stays until it has ended, and deletes it.
    pub(crate) async fn stay(self) -> Result<ExitCode> {
        let Self { task, io, attachment } = self;
        let Some(mut attachment) = attachment else {
            io.keep();
            return Ok(ExitCode::SUCCESS);
        };
        let exit = match attachment.wait().await {
            Ok(exit) => exit,
            Err(error) => {
                discard(&task).await;
                return Err(error);
            }
        };
        // Who refuses keeps what a checkpoint has left of it: that is for people to
        // decide on.
        task.delete().await?;
        attachment.drain().await?;
        Ok(exit_code(exit))
    }
}

/// Ends and deletes a task that was not started, or that was lost hold of.
async fn discard(task: &Task) {
    let end = async {
        match task.kill(SIGKILL).await {
            Ok(()) => drop(task.wait().await?),
            // One that could not be restored has no process, and others have ended.
            Err(e) if e.kind() == ErrorKind::FailedPrecondition || e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        task.delete().await
    };
    if let Err(error) = end.await
        && !error.is_not_found()
    {
        tracing::error!("cannot clean up: {}", error.report());
    }
}

/// Writes the file whole or not at all: whoever waits for it finds a pid in it.
fn write_pid(file: &Path, pid: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let file = std::path::absolute(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let draft = file.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut open = fs::OpenOptions::new().write(true).create_new(true).open(&draft)?;
        let written =
            open.write_all(pid.to_string().as_bytes()).and_then(|()| fs::rename(&draft, &file));
        if written.is_err() {
            fs::remove_file(&draft)?;
        }
        written
    };
    write().with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_just_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        write_pid(&file, 42).unwrap();
        write_pid(&file, 43).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "43");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_pid(Path::new("/nowhere/pid"), 1).is_err());
    }
}
