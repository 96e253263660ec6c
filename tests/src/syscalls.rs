//! Counts system calls of running processes, and of all that they start.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::time::within;

/// Debian's package `strace`.
const STRACE: &str = "/usr/bin/strace";

/// How often each system call was made, by its name.
#[derive(Clone, Debug, Default)]
pub struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// True if they can be counted here.
    pub fn can_be_counted() -> bool {
        Path::new(STRACE).exists()
    }

    /// How many processes were told.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The most frequent ones first, as text.
    pub fn top(&self, count: usize) -> String {
        let mut calls: Vec<_> = self.0.iter().collect();
        calls.sort_by_key(|(_, calls)| std::cmp::Reverse(**calls));
        let words = calls.iter().take(count).map(|(name, calls)| format!("{name} {calls}"));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// Counts the calls that the processes `pids`, with all of their threads, and
/// what they start make during `work`.
///
/// # Errors
/// Those of the work; somebody else traces one of them.
pub async fn count(pids: &[u32], work: impl Future<Output = Result<()>>) -> Result<Calls> {
    let table = NamedTempFile::new()?;
    let mut strace = Command::new(STRACE);
    strace.args(["--follow-forks", "--summary-only", "--summary-columns=calls,name", "--output"]);
    strace.arg(table.path());
    strace.args(pids.iter().map(|pid| format!("--attach={pid}")));
    let strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut strace = strace.spawn().context(STRACE)?;
    let mut words = BufReader::new(strace.stderr.take().context("standard error")?).lines();
    within("strace attaches", attached(&mut words, pids.len())).await??;
    work.await?;
    within("strace ends", stop(strace, words)).await??;
    parse(&fs::read_to_string(table.path())?)
}

/// It says of each process in a line of its own that it has it.
async fn attached(words: &mut Lines<BufReader<ChildStderr>>, count: usize) -> Result<()> {
    let mut attached = 0;
    while attached < count {
        let line = words.next_line().await?.context("strace has ended")?;
        ensure!(line.contains(" attached"), "{line}");
        attached += 1;
    }
    Ok(())
}

async fn stop(mut strace: Child, mut words: Lines<BufReader<ChildStderr>>) -> Result<()> {
    let pid = strace.id().context("strace has ended")?;
    kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
    // It tells of each process that it lets go.
    while words.next_line().await?.is_some() {}
    strace.wait().await?;
    Ok(())
}

/// Lines of a number and a name, between a head and a sum.
fn parse(table: &str) -> Result<Calls> {
    let mut calls = BTreeMap::new();
    for line in table.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [count, name] = words[..]
            && name != "total"
            && let Ok(count) = count.parse()
        {
            calls.insert(name.to_owned(), count);
        }
    }
    ensure!(!calls.is_empty(), "no calls in {table:?}");
    Ok(Calls(calls))
}
