//! On what was measured.

use std::{collections::BTreeMap, fs, process::Command, thread, time::SystemTime};

use serde_json::{Value, json};

/// Programs whose version matters.
const PROGRAMS: [&str; 3] = ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/bin/crun"];

/// The machine, as far as figures depend on it.
pub(crate) struct Machine {
    /// That this process may use.
    pub(crate) cores: usize,
    /// As its maker calls it.
    pub(crate) processor: String,
    /// In megabytes.
    pub(crate) memory: u64,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Processes that wanted to run in the minute before: others than ours.
    pub(crate) load: String,
    /// First line of what programs say of themselves.
    pub(crate) programs: BTreeMap<String, String>,
    /// Seconds since 1970.
    time: u64,
}

impl Machine {
    /// Looks around. What cannot be found out is empty: figures are worth having
    /// without it.
    pub(crate) fn look() -> Self {
        let processors = read("/proc/cpuinfo");
        let processor = value(&processors, "model name").trim_start_matches(':').trim();
        let memory =
            value(&read("/proc/meminfo"), "MemTotal:").trim_end_matches("kB").trim().parse();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            cores: thread::available_parallelism().map_or(0, usize::from),
            processor: processor.into(),
            memory: memory.unwrap_or(0) / 1000,
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().into(),
            programs: PROGRAMS.iter().filter_map(|path| version(path)).collect(),
            time: now.as_secs(),
        }
    }

    /// All of it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "memory_mb": self.memory,
            "kernel": self.kernel,
            "load": self.load,
            "programs": self.programs,
            "time": self.time,
        })
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The rest of the first line that begins with `key`.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim()
}

/// Name and version of a program, if it is there.
fn version(path: &str) -> Option<(String, String)> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some((path.rsplit('/').next()?.into(), text.lines().next()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_rest_of_its_line() {
        let text = "MemTotal:       24000000 kB\nMemFree: 1 kB\n";
        assert_eq!(value(text, "MemTotal:"), "24000000 kB");
        assert_eq!(value(text, "Nothing:"), "");
    }

    #[test]
    fn this_machine_has_a_kernel() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory > 0 && !machine.kernel.is_empty());
    }
}
