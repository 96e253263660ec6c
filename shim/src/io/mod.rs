//! The streams of one process: who holds which end, and until when.
//!
//! ```text
//!  process ──pipe──▶ shim ──FIFO───────▶ client     the shim also holds the
//!  process ◀─pipe─── shim ◀──FIFO─────── client     client's end of each FIFO
//!  process ──pipe──▶ shim ──file
//!  process ──pipe───────────────────────▶ logger    the shim is not in between
//!  process ◀─tty───▶ shim ◀─▶ FIFO, file, logger or the client's terminal
//! ```
//!
//! The process's end of a pipe goes to the OCI runtime and is closed here as
//! soon as that runs, so a pipe ends with the last process that holds it. The
//! client's FIFO is closed when its pipe has ended and is copied: that is when
//! the client sees the end.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::{Gid, Uid, fchown};
use shim_protocol::{Context, Error, Id, Result};
use tokio::{io::Interest, sync::watch, task::JoinSet, time::timeout};

use self::{
    console::{ConsoleSocket, Terminal},
    copy::{Pollable, Progress, Sink, copy, pollable},
    fifo::InputFifo,
    logger::Logger,
    output::Output,
    target::Target,
};
use crate::{reaper::Reaper, runtime::ChildStdio};

mod client_terminal;
mod console;
mod copy;
mod fifo;
mod logger;
mod output;
mod target;
#[cfg(test)]
mod tests;

/// How long a process that has ended may be silent before its pipes are taken
/// to be held by another (containerd's shim waits as long).
const PIPE_SILENCE: Duration = Duration::from_secs(2);
/// The same for a terminal, which the kernel empties at once. Who is left
/// behind on it has lost it.
const TERMINAL_SILENCE: Duration = Duration::from_millis(200);

/// Where the streams of a process go, in the client's words: the path of a
/// FIFO or file, a `file://` or `binary://` URI, or nothing for `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output, or all output of a terminal.
    pub stdout: String,
    /// Standard error; a terminal has none.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// Whose streams are opened.
#[derive(Debug)]
pub struct Owner<'a> {
    /// The containerd namespace, told to a logging program.
    pub namespace: &'a Id,
    /// The container's or exec's name, told to a logging program.
    pub id: &'a Id,
    /// A folder only root can enter, for the console's socket.
    pub dir: &'a Path,
    /// The user who owns the pipes, so that the process can reopen them.
    pub uid: u32,
    /// The group that owns the pipes.
    pub gid: u32,
}

/// The shim's side of the streams of one process. Dropping it closes
/// everything at once; [`ProcessIo::close`] is the gentle way.
pub struct ProcessIo {
    console: Mutex<Console>,
    /// Our writing end of the client's input FIFO.
    stdin_keeper: Mutex<Option<OwnedFd>>,
    /// Copies; aborted when dropped.
    tasks: Mutex<JoinSet<()>>,
    /// Number of output streams that are not copied to their end.
    open_outputs: watch::Sender<usize>,
    /// Of the output streams, together.
    progress: Arc<Progress>,
    logger: Option<Logger>,
}

enum Console {
    None,
    Expected { socket: ConsoleSocket, input: Option<Pollable>, output: Output },
    Attached(Terminal),
}

impl ProcessIo {
    /// Opens the client's side, makes the process's side, and starts to copy.
    ///
    /// # Errors
    /// `InvalidArgument` for a URI that is not understood,
    /// `FailedPrecondition` for a FIFO or logger that is not there.
    pub async fn open(
        stdio: &Stdio,
        owner: &Owner<'_>,
        reaper: &Reaper,
    ) -> Result<(Self, ChildStdio)> {
        let stdout = Target::parse(&stdio.stdout)?;
        let stderr = Target::parse(&stdio.stderr)?;
        let mut io = Self {
            console: Mutex::new(Console::None),
            stdin_keeper: Mutex::new(None),
            tasks: Mutex::new(JoinSet::new()),
            open_outputs: watch::Sender::new(0),
            progress: Arc::default(),
            logger: None,
        };
        let child = if stdio.terminal {
            io.open_terminal(&stdio.stdin, &stdout, owner, reaper).await?
        } else {
            let (stdout, stderr) = io.open_outputs(&stdout, &stderr, owner, reaper).await?;
            ChildStdio::Fds { stdin: io.open_stdin(&stdio.stdin, owner)?, stdout, stderr }
        };
        Ok((io, child))
    }

    /// Takes the terminal that the runtime has made. To be called once the
    /// runtime has created the process; does nothing without a terminal.
    ///
    /// # Errors
    /// `DeadlineExceeded` when the runtime has sent no terminal.
    pub async fn attach_console(&self) -> Result<()> {
        let expected = std::mem::replace(&mut *lock(&self.console), Console::None);
        let Console::Expected { socket, input, output } = expected else {
            *lock(&self.console) = expected;
            return Ok(());
        };
        let terminal = socket.receive().await?;
        if let Some(input) = input {
            self.copy_input(input, terminal.master());
        }
        self.copy_output(terminal.master(), output);
        *lock(&self.console) = Console::Attached(terminal);
        Ok(())
    }

    /// The process sees the end of its input as soon as no client holds the
    /// FIFO open for writing. Doing it twice is fine.
    pub fn close_stdin(&self) {
        *lock(&self.stdin_keeper) = None;
    }

    /// Changes the size of the terminal, in characters.
    ///
    /// # Errors
    /// `FailedPrecondition` when there is no terminal.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &*lock(&self.console) {
            Console::Attached(terminal) => {
                terminal.resize(columns, rows).context("resize", "terminal")
            }
            Console::None | Console::Expected { .. } => {
                Err(Error::precondition("the process has no terminal"))
            }
        }
    }

    /// To be called when the process has ended: from now on a terminal that no
    /// process holds open is at its end, and the client sees that.
    pub fn process_ended(&self) {
        if let Console::Attached(terminal) = &mut *lock(&self.console) {
            terminal.expect_end();
        }
    }

    /// Waits until all output of a process that has ended is with the client or
    /// logger. Another process may hold a stream open: it is not waited for
    /// once nothing has come for a while. False when it took longer than
    /// `limit`, because the client does not read.
    pub async fn drained(&self, limit: Duration) -> bool {
        timeout(limit, self.quiet()).await.is_ok()
    }

    /// Waits for the end of all outputs, or for silence.
    async fn quiet(&self) {
        let mut open = self.open_outputs.subscribe();
        let silence = match &*lock(&self.console) {
            Console::Attached(_) => TERMINAL_SILENCE,
            Console::None | Console::Expected { .. } => PIPE_SILENCE,
        };
        loop {
            let before = self.progress.steps();
            // An error would mean that the sender is gone, but it is in `self`.
            if timeout(silence, open.wait_for(|count| *count == 0)).await.is_ok() {
                return;
            }
            if before.is_some() && before == self.progress.steps() {
                return;
            }
        }
    }

    /// Ends copying and loggers, and waits for them.
    pub async fn close(mut self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        // With the console goes our end of a logger's pipe.
        *lock(&self.console) = Console::None;
        if let Some(logger) = self.logger.take() {
            logger.stop().await;
        }
    }

    async fn open_terminal(
        &mut self,
        stdin: &str,
        stdout: &Target,
        owner: &Owner<'_>,
        reaper: &Reaper,
    ) -> Result<ChildStdio> {
        let input = match stdin {
            "" => None,
            path => Some(match client_terminal(Path::new(path))? {
                Some(terminal) => register(terminal, Interest::READABLE)?,
                None => self.open_input(Path::new(path))?,
            }),
        };
        let output = match stdout {
            Target::Logger(spec) => {
                let (ours, theirs) = pipe(owner)?;
                // A terminal has one stream; the other is at its end already.
                let (end, _) = pipe(owner)?;
                let logger = Logger::start(spec, owner, [ours, end], reaper).await?;
                self.logger = Some(logger);
                Output::Pipe(Arc::new(register(theirs, Interest::WRITABLE)?))
            }
            Target::Path(path) => match client_terminal(path)? {
                Some(terminal) => Output::Pipe(Arc::new(register(terminal, Interest::WRITABLE)?)),
                None => Output::open(stdout)?,
            },
            target => Output::open(target)?,
        };
        let socket = ConsoleSocket::bind(owner.dir)?;
        let address = socket.address();
        *lock(&self.console) = Console::Expected { socket, input, output };
        Ok(ChildStdio::Console(address))
    }

    /// The process's ends of its output streams.
    async fn open_outputs(
        &mut self,
        stdout: &Target,
        stderr: &Target,
        owner: &Owner<'_>,
        reaper: &Reaper,
    ) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        if let Target::Logger(spec) = stdout {
            let (out, stdout) = pipe(owner)?;
            let (err, stderr) = pipe(owner)?;
            self.logger = Some(Logger::start(spec, owner, [out, err], reaper).await?);
            return Ok((Some(stdout), Some(stderr)));
        }
        Ok((self.open_output(stdout, owner)?, self.open_output(stderr, owner)?))
    }

    fn open_output(&self, target: &Target, owner: &Owner<'_>) -> Result<Option<OwnedFd>> {
        let output = match Output::open(target)? {
            Output::Null => return Ok(None),
            output => output,
        };
        let (ours, theirs) = pipe(owner)?;
        self.copy_output(Arc::new(register(ours, Interest::READABLE)?), output);
        Ok(Some(theirs))
    }

    /// The process's end of its input.
    fn open_stdin(&self, stdin: &str, owner: &Owner<'_>) -> Result<Option<OwnedFd>> {
        if stdin.is_empty() {
            return Ok(None);
        }
        let path = Path::new(stdin);
        if !is_fifo(path)? {
            let file = File::open(path).context("open", path.display())?;
            return Ok(Some(file.into()));
        }
        let input = self.open_input(path)?;
        let (theirs, ours) = pipe(owner)?;
        self.copy_input(input, Arc::new(register(ours, Interest::WRITABLE)?));
        Ok(Some(theirs))
    }

    fn open_input(&self, path: &Path) -> Result<Pollable> {
        if !is_fifo(path)? {
            return Err(Error::invalid(format!("{} is not a FIFO", path.display())));
        }
        let InputFifo { reader, keeper } =
            InputFifo::open(path).context("open FIFO", path.display())?;
        *lock(&self.stdin_keeper) = Some(keeper);
        Ok(reader)
    }

    fn copy_input(&self, source: Pollable, process: Arc<Pollable>) {
        lock(&self.tasks).spawn(async move {
            let progress = Progress::default();
            if let Err(error) = copy(&source, &Sink::Pollable(process), &progress).await {
                // It has closed its input, or has ended.
                tracing::debug!(%error, "input not taken");
            }
        });
    }

    fn copy_output(&self, source: Arc<Pollable>, output: Output) {
        self.open_outputs.send_modify(|count| *count += 1);
        let (open_outputs, progress) = (self.open_outputs.clone(), Arc::clone(&self.progress));
        lock(&self.tasks).spawn(async move {
            let sink = output.sink();
            let mut reported = false;
            // A full disk must not stop the process: its output is read on.
            while let Err(error) = copy(&source, &sink, &progress).await {
                if !reported {
                    tracing::warn!(%error, "output lost");
                    reported = true;
                }
            }
            drop(sink);
            let unread = output.close();
            open_outputs.send_modify(|count| *count -= 1);
            let handed_over = match unread {
                Ok(Some(unread)) => unread.handed_over().await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = handed_over {
                tracing::warn!(%error, "keep unread output");
            }
        });
    }
}

/// The reading and the writing end of a pipe that the container's user owns.
fn pipe(owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe().context("make", "pipe")?;
    fchown(&writer, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        .map_err(io::Error::from)
        .context("change owner of", "pipe")?;
    Ok((reader.into(), writer.into()))
}

fn client_terminal(path: &Path) -> Result<Option<OwnedFd>> {
    client_terminal::open(path).context("open terminal", path.display())
}

fn register(fd: OwnedFd, interest: Interest) -> Result<Pollable> {
    pollable(fd, interest).context("poll", "stream")
}

/// # Errors
/// `FailedPrecondition` when nothing is there.
fn is_fifo(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.file_type().is_fifo()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::caused(
            shim_protocol::ErrorKind::FailedPrecondition,
            format!("open stream {}", path.display()),
            error,
        )),
        Err(error) => Err(error).context("examine", path.display()),
    }
}

/// What the locks guard is whole between statements, so a panic elsewhere does
/// not spoil it. None is held across an await.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
