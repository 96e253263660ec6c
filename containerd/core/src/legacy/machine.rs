//! What clients are told of the machine.

use std::fs;

use shim_protocol::{Context, Error, ErrorKind, Result};

/// The machine that the daemon runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name of this instance.
    pub id: String,
    /// Number of processors.
    pub cpus: u32,
    /// Size of the memory, in bytes.
    pub memory: u64,
}

pub(super) fn read(id: String) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).context("read", path);
    let cpus = cpus(&read("/proc/stat")?);
    let memory = memory(&read("/proc/meminfo")?).ok_or_else(|| {
        Error::new(ErrorKind::Internal, "/proc/meminfo does not say how much memory there is")
    })?;
    Ok(Machine { id, cpus, memory })
}

/// One line for each, `cpu0` and so on; the line `cpu` is their sum (proc(5)).
fn cpus(stat: &str) -> u32 {
    let is_one = |line: &&str| {
        let number = line.strip_prefix("cpu").and_then(|rest| rest.split(' ').next());
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    u32::try_from(stat.lines().filter(is_one).count()).unwrap_or(u32::MAX)
}

/// In units of 1024 bytes (proc(5)).
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        assert_eq!(cpus("cpu  1 2\ncpu0 1 2\ncpu11 3 4\nintr 7\n"), 2);
        assert_eq!(memory("MemTotal:        7688388 kB\nMemFree: 1 kB\n"), Some(7_872_909_312));
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_has_something() {
        let machine = read("name".into()).unwrap();
        assert_eq!(machine.id, "name");
        assert!(machine.cpus > 0 && machine.memory > 1 << 20, "{machine:?}");
    }
}
