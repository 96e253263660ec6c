//! What a container uses.

use std::{fs, time::SystemTime};

use shim_protocol::Result;

use super::{Legacy, blocking, container_id};
use crate::Any;

/// What a container uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// When it was looked at.
    pub at: SystemTime,
    /// `io.containerd.cgroups.v1.Metrics`, `…v2.Metrics`, or what the shim has.
    pub cgroup: Any,
    /// Its network interfaces, by name.
    pub network: Vec<Interface>,
}

/// A network interface, as the container sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes, packets, errors and drops of what came in.
    pub received: [u64; 4],
    /// The same of what went out.
    pub sent: [u64; 4],
}

impl Legacy {
    /// What a container uses now.
    ///
    /// # Errors
    /// `NotFound` when it does not run; `DeadlineExceeded` when its shim does
    /// not answer; and what it says.
    pub async fn stats(&self, container: &str) -> Result<Stats> {
        let id = container_id(container)?;
        let target = self.target(&id, None);
        let pid = self.tasks.get(&target).await?.pid;
        let metric = self.tasks.stats(&target).await?;
        let network = blocking("read", "network figures", move || Ok(interfaces(pid))).await?;
        Ok(Stats { at: metric.at, cgroup: metric.data, network })
    }
}

/// None if the process is gone: the figures are of the rest then.
fn interfaces(pid: u32) -> Vec<Interface> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut found: Vec<_> = text.lines().filter_map(interface).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// `name: ` and eight figures each for what came in and went out, of which the
/// first four are bytes, packets, errors and drops (proc_pid_net(5)).
fn interface(line: &str) -> Option<Interface> {
    let (name, figures) = line.rsplit_once(':')?;
    let figures: Vec<u64> = figures.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let four = |from: usize| figures.get(from..from + 4)?.try_into().ok();
    Some(Interface { name: name.trim().to_owned(), received: four(0)?, sent: four(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let line = "  eth0: 1 2 3 4 0 0 0 0 11 12 13 14 0 0 0 0";
        let wanted =
            Interface { name: "eth0".into(), received: [1, 2, 3, 4], sent: [11, 12, 13, 14] };
        assert_eq!(interface(line), Some(wanted));
        assert_eq!(interface("Inter-|   Receive    |  Transmit"), None);
        assert_eq!(interface(" face |bytes packets"), None);
        assert!(interfaces(std::process::id()).iter().any(|i| i.name == "lo"));
    }
}
