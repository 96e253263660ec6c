//! Staying with a process of 2015 until it ends.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result, bail};
use containerd_client::{FIFO_DIR, Fifos, LegacyEvents, Streams};
use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};
use tokio::sync::oneshot;

use crate::{attach, console::RawTerminal};

/// Paths that the daemon is told.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) console: String,
}

/// Our side of the streams of a process that is to be made.
pub(super) struct Attached {
    paths: Paths,
    side: Side,
}

enum Side {
    Fifos {
        fifos: Fifos,
        streams: Streams,
    },
    /// The controlling side of a terminal for the process, and our own.
    Terminal {
        master: File,
        raw: RawTerminal,
    },
}

impl Attached {
    /// Makes FIFOs, or a terminal.
    pub(super) fn prepare(id: &str, terminal: bool) -> Result<Self> {
        if terminal {
            let raw = RawTerminal::enter()?;
            let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
                .context("make a terminal")?;
            grantpt(&master).context("make a terminal")?;
            unlockpt(&master).context("make a terminal")?;
            let console = ptsname_r(&master).context("name the terminal")?;
            let master = File::from(master.as_fd().try_clone_to_owned()?);
            let paths = Paths { console, ..Paths::default() };
            return Ok(Self { paths, side: Side::Terminal { master, raw } });
        }
        let fifos = Fifos::create(FIFO_DIR, id, false)?;
        let streams = fifos.open()?;
        let stdio = fifos.stdio();
        let paths = Paths {
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            console: String::new(),
        };
        Ok(Self { paths, side: Side::Fifos { fifos, streams } })
    }

    pub(super) fn streams(&self) -> &Paths {
        &self.paths
    }
}

/// Copies both ways until the process has ended, and gives back its exit code.
pub(super) async fn stay(
    attached: Attached,
    events: LegacyEvents,
    id: &str,
    pid: u32,
) -> Result<ExitCode> {
    let ended = ended(events, id, pid);
    match attached.side {
        Side::Fifos { fifos, streams } => {
            // Output ends a moment before or after the process.
            let (copied, status) = tokio::join!(attach::copy(streams), ended);
            drop(fifos);
            copied?;
            status
        }
        Side::Terminal { master, raw } => {
            let output = copy_terminal(&master)?;
            let status = ended.await;
            // It ends when the process's side is closed by the shim. If our own
            // output is gone, the copying has ended as well.
            drop(output.await);
            drop(raw);
            status
        }
    }
}

/// Other processes of the same name may have ended before.
async fn ended(mut events: LegacyEvents, id: &str, pid: u32) -> Result<ExitCode> {
    while let Some(event) = events.next().await? {
        if event.r#type == "exit" && event.id == id && event.pid == pid {
            return Ok(ExitCode::from((event.status & 0xff) as u8));
        }
    }
    bail!("the daemon stops, and the process goes on")
}

/// Copies on threads: a terminal is read until it ends, and standard input until
/// this program does.
fn copy_terminal(master: &File) -> Result<oneshot::Receiver<()>> {
    let (mut reader, mut writer) = (master.try_clone()?, master.try_clone()?);
    let (done, ended) = oneshot::channel();
    thread::spawn(move || {
        // EIO is how a terminal says that its other side is closed.
        let _ = copy(&mut reader, &mut io::stdout());
        // Nobody may be waiting any more.
        let _ = done.send(());
    });
    thread::spawn(move || copy(&mut io::stdin(), &mut writer));
    Ok(ended)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
