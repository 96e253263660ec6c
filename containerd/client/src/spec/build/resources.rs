//! How much the program may use.

use std::path::PathBuf;

use super::SpecBuilder;

/// Period of CPU quotas, in microseconds, if none is given.
const CPU_PERIOD_US: u64 = 100_000;

impl SpecBuilder {
    /// Its cgroup: a path in the hierarchy, or `slice:prefix:name` for systemd.
    /// Empty leaves it in the shim's.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = path.into();
        self
    }

    /// Limits memory, in bytes.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        self
    }

    /// Limits the number of processes.
    #[must_use]
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.pids_limit = Some(limit);
        self
    }

    /// Limits CPU time to that of so many processors.
    #[must_use]
    pub fn cpus(self, cpus: f64) -> Self {
        let quota = (cpus * CPU_PERIOD_US as f64) as i64;
        self.cpu_quota(quota, CPU_PERIOD_US)
    }

    /// Limits CPU time to `quota` microseconds in each `period` of so many
    /// microseconds; 0 leaves the kernel's period.
    #[must_use]
    pub fn cpu_quota(mut self, quota: i64, period: u64) -> Self {
        self.cpu.set_quota(Some(quota)).set_period((period > 0).then_some(period));
        self
    }

    /// Weight of its CPU time when others want it too; 1024 is usual.
    #[must_use]
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.cpu.set_shares(Some(shares));
        self
    }

    /// Puts it into a class of Intel RDT.
    #[must_use]
    pub fn rdt_class(mut self, class: impl Into<String>) -> Self {
        self.rdt_class = Some(class.into());
        self
    }
}
