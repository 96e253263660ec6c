//! What `/proc` says about processes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::eventually;

/// All processes of this machine.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The arguments of a process; empty for one that is gone or a zombie.
pub fn arguments(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// True if a process is a shim, whoever made it.
pub fn is_shim(pid: u32) -> bool {
    names_shim(&arguments(pid))
}

/// The shims of one containerd namespace, which they are told when they start.
pub fn shims_in(namespace: &str) -> Vec<u32> {
    pids()
        .into_iter()
        .filter(|pid| {
            let arguments = arguments(*pid);
            names_shim(&arguments)
                && arguments.windows(2).any(|pair| pair == ["-namespace", namespace])
        })
        .collect()
}

fn names_shim(arguments: &[String]) -> bool {
    let name = arguments.first().and_then(|path| path.rsplit('/').next());
    name.is_some_and(|name| name.starts_with("containerd-shim"))
}

/// The mount namespace of a process, as the kernel names it.
pub fn mount_namespace(pid: u32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/mnt"))
}

/// State letter and parent from `/proc/<pid>/stat` (proc(5)).
pub fn state(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// True while the process runs; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// True once the process is gone, and with it what its parent has to do for it: of
/// a container's process the shim knows the end then.
pub fn is_reaped(pid: u32) -> bool {
    state(pid).is_none()
}

/// Waits until a process [is reaped](is_reaped).
///
/// # Errors
/// It is there for too long.
pub async fn reaped(pid: u32) -> Result<()> {
    eventually(async || {
        ensure!(is_reaped(pid), "process {pid} is there");
        Ok(())
    })
    .await
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // The only other failure is a lack of rights, and the suite is root.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// True if a container's shell has set a trap for a signal. What runs before the
/// shell, which is a program in Go, has a handler for every one.
pub fn has_trap(pid: u32, signal: Signal) -> bool {
    arguments(pid).first().is_some_and(|word| word == "/bin/sh") && catches(pid, signal)
}

/// True if a process has a handler for a signal (`SigCgt` of proc(5)).
pub fn catches(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as u32 - 1)) != 0
}

/// Memory of one process, in kilobytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What is in memory, shared pages in full.
    pub resident: u64,
    /// Each shared page divided by the number of its users.
    pub proportional: u64,
    /// What would be free if only this process ended.
    pub private: u64,
}

/// Reads `/proc/<pid>/smaps_rollup`.
///
/// # Errors
/// The process is gone.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).context(path)?;
    let mut memory = Memory::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(Ok(value))) = (words.next(), words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        match key {
            "Rss:" => memory.resident = value,
            "Pss:" => memory.proportional = value,
            "Private_Clean:" | "Private_Dirty:" => memory.private += value,
            _ => {}
        }
    }
    Ok(memory)
}

/// The most that a process had in memory since [`reset_peak`], in kilobytes.
///
/// # Errors
/// The process is gone.
pub fn peak(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Lets [`peak`] begin anew (`clear_refs` of proc(5)).
///
/// # Errors
/// The process is gone.
pub fn reset_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").context(path)
}

/// How many descriptors a process has open.
///
/// # Errors
/// The process is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path).context(path)?.count())
}

/// Mount points below `folder`, innermost last, as the process `pid` sees them.
pub fn mounts_below(pid: u32, folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(folder))
        .collect()
}
