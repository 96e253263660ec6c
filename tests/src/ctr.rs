//! Running a `ctr`, Debian's or ours.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::{DEADLINE, Daemon, Origin, Sandbox, Terminal, program, time::within_time};

/// How much of its output is shown of a command that failed.
const SHOWN_BYTES: usize = 400;

/// A `ctr` for one daemon and namespace.
pub struct Ctr<'a> {
    sandbox: &'a Sandbox,
    origin: Origin,
    arguments: Vec<String>,
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// It did not.
    pub fn ok(self) -> Result<String> {
        // Behind many drawings of progress bars is what counts.
        let begin = self.stdout.len().saturating_sub(SHOWN_BYTES);
        let begin = self.stdout.ceil_char_boundary(begin);
        let (end, said) = (&self.stdout[begin..], &self.stderr);
        ensure!(self.code == Some(0), "code {:?}, {said:?}, behind {end:?}", self.code);
        Ok(self.stdout)
    }
}

impl<'a> Ctr<'a> {
    pub(crate) fn new(sandbox: &'a Sandbox, daemon: &Daemon, origin: Origin) -> Self {
        let address = daemon.socket().display().to_string();
        Self { sandbox, origin, arguments: vec!["--address".into(), address] }
    }

    /// Whose it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Runs a command that must succeed; the answer is its standard output.
    ///
    /// # Errors
    /// It fails.
    pub async fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?.ok();
        output.with_context(|| format!("{:?} ctr {}", self.origin, arguments.join(" ")))
    }

    /// Pulls an image from a registry without TLS.
    ///
    /// # Errors
    /// It fails.
    pub async fn pull(&self, reference: &str) -> Result<()> {
        self.ok(&["images", "pull", "--plain-http", reference]).await.map(drop)
    }

    /// Runs the command of an image in a container, which has to say this.
    ///
    /// # Errors
    /// It fails, or says something else.
    pub async fn run_image(&self, reference: &str, id: &str, expected: &str) -> Result<()> {
        let said = self.ok(&["run", "--rm", reference, id]).await?;
        self.expect(&said, expected).with_context(|| format!("{reference} in {id}"))
    }

    /// A container that has ended has said this, as far as this client tells:
    /// Debian's closes its ends of the streams when it hears of the end, and may
    /// not have read all by then (containerd 1.6.20, `task.go`, `Delete`).
    ///
    /// # Errors
    /// It has said something else.
    pub fn expect(&self, said: &str, expected: &str) -> Result<()> {
        let is_said = match self.origin {
            Origin::Debian => expected.starts_with(said),
            Origin::Ours => said == expected,
        };
        ensure!(is_said, "{:?} ctr prints {said:?}, not {expected:?}", self.origin);
        Ok(())
    }

    /// Removes images, and returns when what only they needed is gone.
    ///
    /// # Errors
    /// It fails.
    pub async fn remove_images(&self, references: &[&str]) -> Result<()> {
        self.ok(&[&["images", "rm", "--sync"], references].concat()).await.map(drop)
    }

    /// With flags that come before the command, such as `--namespace`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Runs a command to its end, without standard input.
    ///
    /// # Errors
    /// It does not end.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_with_input(arguments, "").await
    }

    /// Runs a command to its end; it reads `input`.
    ///
    /// # Errors
    /// It does not end.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        self.run_for(DEADLINE, arguments, input).await
    }

    /// Runs a command that may take so long; it reads `input`.
    ///
    /// # Errors
    /// It does not end.
    pub async fn run_for(
        &self,
        limit: Duration,
        arguments: &[&str],
        input: &str,
    ) -> Result<Output> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("standard input")?;
        let write = async {
            // A command that reads nothing may be gone before it could.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await;
            drop(stdin);
        };
        let what = format!("ctr {}", arguments.join(" "));
        let ended = async { tokio::join!(child.wait_with_output(), write) };
        let (output, ()) = within_time(limit, &what, ended).await?;
        let output = output?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts a command that is left running; its streams are pipes.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// Starts a command on a terminal of its own.
    ///
    /// # Errors
    /// There is no terminal to be had.
    pub fn terminal(&self, arguments: &[&str]) -> Result<Terminal> {
        Terminal::start(self.program_and_arguments(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words = self.program_and_arguments(arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).kill_on_drop(true);
        command
    }

    fn program_and_arguments(&self, arguments: &[&str]) -> Vec<std::ffi::OsString> {
        let (program, mut words) = self.sandbox.command(Path::new(&program(self.origin, "ctr")));
        words.insert(0, program.into());
        words.extend(self.arguments.iter().map(Into::into));
        words.extend(arguments.iter().map(Into::into));
        words
    }
}
