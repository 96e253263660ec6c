//! Standard streams as a client offers them: FIFOs that it makes and the shim
//! opens.

use std::{
    fs::OpenOptions,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use nix::{libc::O_NONBLOCK, sys::stat::Mode, unistd::mkfifo};
use tokio::{fs::File, io::AsyncWriteExt, sync::watch};

use crate::time::within;

/// The streams of one process.
#[derive(Default)]
pub struct Stdio {
    /// What the shim is told for standard input: a FIFO, or nothing.
    pub stdin: String,
    /// The same for standard output, which may be a URL too.
    pub stdout: String,
    /// The same for standard error.
    pub stderr: String,
    /// The other end of standard input.
    pub input: Option<Stdin>,
    /// The other end of standard output.
    pub output: Option<Stream>,
    /// The other end of standard error; with a terminal there is none.
    pub errors: Option<Stream>,
}

impl Stdio {
    /// No streams at all.
    pub fn null() -> Self {
        Self::default()
    }

    /// Standard output and error to a logging URI.
    pub fn uri(uri: &str) -> Self {
        Self { stdout: uri.into(), stderr: uri.into(), ..Self::default() }
    }

    /// FIFOs in `folder` whose names begin with `name`.
    ///
    /// # Errors
    /// They cannot be made.
    pub(crate) fn fifos(folder: &Path, name: &str, stdin: bool, stderr: bool) -> Result<Self> {
        let fifo = |kind: &str| -> Result<PathBuf> {
            let path = folder.join(format!("{name}-{kind}"));
            mkfifo(&path, Mode::S_IRWXU).with_context(|| format!("make {}", path.display()))?;
            Ok(path)
        };
        let mut stdio = Self::default();
        let stdout = fifo("stdout")?;
        stdio.stdout = stdout.display().to_string();
        stdio.output = Some(Stream::open(stdout));
        if stderr {
            let stderr = fifo("stderr")?;
            stdio.stderr = stderr.display().to_string();
            stdio.errors = Some(Stream::open(stderr));
        }
        if stdin {
            let stdin = fifo("stdin")?;
            stdio.stdin = stdin.display().to_string();
            stdio.input = Some(Stdin { path: stdin, file: None });
        }
        Ok(stdio)
    }

    /// All of standard output, once it has ended.
    ///
    /// # Errors
    /// It does not end.
    pub async fn all_output(&mut self) -> Result<String> {
        let bytes = self.output.as_mut().context("no standard output")?.all().await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All of standard error, once it has ended.
    ///
    /// # Errors
    /// It does not end.
    pub async fn all_errors(&mut self) -> Result<String> {
        let bytes = self.errors.as_mut().context("no standard error")?.all().await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The writing end of a process's standard input. Dropping it closes it.
pub struct Stdin {
    path: PathBuf,
    file: Option<File>,
}

impl Stdin {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Nobody reads.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        within("write standard input", async {
            let file = match &mut self.file {
                Some(file) => file,
                // Waits until the shim has opened the other end.
                None => {
                    let file = File::options().write(true).open(&self.path).await?;
                    self.file.insert(file)
                }
            };
            file.write_all(bytes).await?;
            file.flush().await?;
            Ok(())
        })
        .await?
    }
}

/// The reading end of an output stream, which collects what comes.
pub struct Stream {
    path: PathBuf,
    received: watch::Receiver<Received>,
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// Reads on a thread: opening a FIFO waits for the other side.
    fn open(path: PathBuf) -> Self {
        let (sender, received) = watch::channel(Received::default());
        let opened = path.clone();
        std::thread::spawn(move || {
            if let Ok(mut fifo) = std::fs::File::open(opened) {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = fifo.read(&mut buffer) {
                    sender.send_modify(|all| all.bytes.extend_from_slice(&buffer[..length]));
                }
            }
            sender.send_modify(|all| all.ended = true);
        });
        Self { path, received }
    }

    /// Everything, once the shim has closed the stream.
    ///
    /// # Errors
    /// It does not end.
    pub async fn all(&mut self) -> Result<Vec<u8>> {
        let received = within("end of output", self.received.wait_for(|all| all.ended)).await??;
        Ok(received.bytes.clone())
    }

    /// Waits until `text` has come; gives back everything so far.
    ///
    /// # Errors
    /// The stream ends or the deadline passes first.
    pub async fn until(&mut self, text: &str) -> Result<String> {
        let came = |all: &Received| String::from_utf8_lossy(&all.bytes).contains(text);
        let received = within(text, self.received.wait_for(|all| came(all) || all.ended)).await??;
        let so_far = String::from_utf8_lossy(&received.bytes).into_owned();
        so_far
            .contains(text)
            .then(|| so_far.clone())
            .ok_or_else(|| anyhow!("the output ended before {text:?} came; it was {so_far:?}"))
    }
}

impl Drop for Stream {
    /// Opens and closes the writing end, so that the reader of a FIFO which
    /// nobody ever opened ends too.
    fn drop(&mut self) {
        let _ = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&self.path);
    }
}
