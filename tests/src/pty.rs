//! A command on a pseudo terminal, as if somebody sat there.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};
use tokio::sync::watch;

use crate::time::within;

/// Columns and rows of a new terminal.
const SIZE: (u32, u32) = (80, 24);

/// A command that runs on a terminal.
pub struct Terminal {
    keyboard: File,
    screen: watch::Receiver<String>,
    slave: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Terminal {
    /// Starts a command in a session of its own, whose terminal this is.
    pub(crate) fn start(words: Vec<OsString>) -> Result<Self> {
        // Not openpty(3): what other tests start meanwhile would inherit it.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = PathBuf::from(ptsname_r(&master)?);
        let master = File::from(master.as_fd().try_clone_to_owned()?);
        let line = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(&slave)?;
        set_size(&slave, SIZE.0, SIZE.1)?;
        let end = || -> Result<Stdio> { Ok(OwnedFd::from(line.try_clone()?).into()) };
        let mut child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(words)
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .spawn()
            .context("setsid")?;
        // Reading the master ends when the last slave is closed.
        drop(line);

        let (screen_sender, screen) = watch::channel(String::new());
        let mut reader = master.try_clone()?;
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                screen_sender.send_modify(|screen| screen.push_str(&text));
            }
        });
        let (exit_sender, exit) = watch::channel(None);
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                exit_sender.send_replace(Some(status));
            }
        });
        Ok(Self { keyboard: master, screen, slave, exit })
    }

    /// Types `text`.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        Ok(self.keyboard.write_all(text.as_bytes())?)
    }

    /// Waits until `text` is on the screen; gives back all of the screen.
    ///
    /// # Errors
    /// It does not come.
    pub async fn until(&mut self, text: &str) -> Result<String> {
        let came = within(text, self.screen.wait_for(|screen| screen.contains(text))).await;
        let came = came.map(|result| result.map(|screen| screen.clone()));
        match came {
            Ok(Ok(screen)) => Ok(screen),
            _ => Err(anyhow!("{text:?} is not on the screen: {:?}", *self.screen.borrow())),
        }
    }

    /// Everything that was written so far.
    pub fn screen(&self) -> String {
        self.screen.borrow().clone()
    }

    /// Changes the size of the terminal, which the command is told by SIGWINCH.
    ///
    /// # Errors
    /// `stty` failed.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        set_size(&self.slave, columns, rows)
    }

    /// Waits for the end of the command.
    ///
    /// # Errors
    /// It does not end.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let ended = within("end of the command", self.exit.wait_for(Option::is_some)).await;
        match ended {
            Ok(status) => status?.context("status"),
            Err(error) => Err(error.context(format!("screen: {:?}", *self.screen.borrow()))),
        }
    }
}

fn set_size(terminal: &Path, columns: u32, rows: u32) -> Result<()> {
    let status = Command::new("stty")
        .arg("--file")
        .arg(terminal)
        .args(["cols", &columns.to_string(), "rows", &rows.to_string()])
        .status()?;
    ensure!(status.success(), "stty failed");
    Ok(())
}
