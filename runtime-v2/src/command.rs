//! Runs a program for its output, with limits on its time and its talk.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use shim_protocol::{Context, Error, ErrorKind, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

/// The most that a shim may print, in bytes. Addresses are short; `-info` of a
/// runtime with many features is the longest answer.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// The most of its error output that is quoted, in bytes.
const QUOTE_LIMIT: usize = 1024;
/// How long output may trail behind the end of the process. A child that it
/// left behind may hold the pipe for ever.
const TRAIL_LIMIT: Duration = Duration::from_millis(100);

/// Runs a program with a deadline and hands back what it printed. One that
/// takes too long or prints too much is killed, with its process group.
///
/// # Errors
/// `DeadlineExceeded`, `FailedPrecondition` when it prints too much, `Unknown`
/// with what it said when it fails.
pub(crate) async fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Vec<u8>> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().context("execute", "the program")?;
    let deadline = Instant::now() + limit;
    let outcome = match timeout_at(deadline, converse(&mut child, input)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            ErrorKind::DeadlineExceeded,
            format!("no answer in {limit:?}, so it was killed"),
        )),
    };
    if outcome.is_err() {
        end(child).await;
    }
    outcome
}

/// Kills a program with its process group, and reaps it.
async fn end(mut child: Child) {
    // Once it has been reaped it has no id, and its group may be another's.
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
    if let Err(error) = killpg(Pid::from_raw(group), Signal::SIGKILL) {
        debug!(group, %error, "program had ended by itself");
    }
    if let Err(error) = child.wait().await {
        warn!(group, %error, "program cannot be reaped");
    }
}

async fn converse(child: &mut Child, input: &[u8]) -> Result<Vec<u8>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut printed, mut complaint) = (Vec::new(), Vec::new());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // It need not read what it does not want to know.
            if let Err(error) = stdin.write_all(input).await {
                debug!(%error, "program closed its input");
            }
        }
    };
    let listen = async {
        tokio::try_join!(collect(stdout, &mut printed), collect(stderr, &mut complaint)).map(drop)
    };
    let end = async {
        tokio::pin!(listen);
        tokio::select! {
            heard = &mut listen => {
                heard?;
                wait(child).await
            }
            status = wait(child) => {
                if let Ok(heard) = timeout(TRAIL_LIMIT, listen).await {
                    heard?;
                }
                status
            }
        }
    };
    let (status, ()) = tokio::join!(end, feed);
    let status = status?;
    if !status.success() {
        let said = if complaint.trim_ascii().is_empty() { &printed } else { &complaint };
        let said = String::from_utf8_lossy(&said[..said.len().min(QUOTE_LIMIT)]);
        return Err(Error::new(ErrorKind::Unknown, format!("{status}: {}", said.trim())));
    }
    if !complaint.is_empty() {
        warn!(said = %String::from_utf8_lossy(&complaint).trim(), "program complains");
    }
    Ok(printed)
}

async fn wait(child: &mut Child) -> Result<ExitStatus> {
    child.wait().await.context("wait for", "the program")
}

/// Reads to the end, but not without bounds.
async fn collect(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<()> {
    let Some(from) = from else { return Ok(()) };
    let limit = OUTPUT_LIMIT as u64 + 1;
    from.take(limit).read_to_end(into).await.context("read output of", "the program")?;
    match into.len() > OUTPUT_LIMIT {
        true => Err(Error::precondition(format!("it printed more than {OUTPUT_LIMIT} bytes"))),
        false => Ok(()),
    }
}
