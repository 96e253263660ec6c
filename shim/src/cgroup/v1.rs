//! Numbers of cgroup v1 (kernel, Documentation/admin-guide/cgroup-v1).

use std::{fs, io, path::Path};

use protobuf::MessageField;
use shim_protocol::proto::cgroups_v1::{
    BlkIOEntry, BlkIOStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat,
    Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

use super::{
    Cgroup,
    files::{Flat, Rdma, device, number, page_sizes, parse, rdma_entries, text},
    v2,
};

/// `cpuacct.stat` counts in these. USER_HZ is 100 on all machines Rust runs on.
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// What of blkio goes out: the field's name in the files, and how to reach it.
type BlkIOField = (&'static str, fn(&mut BlkIOStat) -> &mut Vec<BlkIOEntry>);

const BLKIO_FIELDS: [BlkIOField; 8] = [
    ("io_service_bytes", |stat| &mut stat.io_service_bytes_recursive),
    ("io_serviced", |stat| &mut stat.io_serviced_recursive),
    ("io_queued", |stat| &mut stat.io_queued_recursive),
    ("io_service_time", |stat| &mut stat.io_service_time_recursive),
    ("io_wait_time", |stat| &mut stat.io_wait_time_recursive),
    ("io_merged", |stat| &mut stat.io_merged_recursive),
    ("time", |stat| &mut stat.io_time_recursive),
    ("sectors", |stat| &mut stat.sectors_recursive),
];

pub(super) fn metrics(cgroup: &Cgroup) -> io::Result<Metrics> {
    let mut metrics = Metrics::new();
    if let Some(group) = cgroup.controller("pids") {
        metrics.pids = some(pids(group)?);
    }
    if let Some(group) = cgroup.controller("cpuacct") {
        metrics.cpu.mut_or_insert_default().usage = some(cpu_usage(group)?);
    }
    if let Some(group) = cgroup.controller("cpu") {
        metrics.cpu.mut_or_insert_default().throttling = some(throttle(group)?);
    }
    if let Some(group) = cgroup.controller("memory") {
        metrics.memory = some(memory(group)?);
        metrics.memory_oom_control = some(oom_control(group)?);
    }
    if let Some(group) = cgroup.controller("blkio") {
        metrics.blkio = some(blkio(group)?);
    }
    if let Some(group) = cgroup.controller("rdma") {
        metrics.rdma = some(rdma(group)?);
    }
    match (cgroup.controller("hugetlb"), &cgroup.v2) {
        (Some(group), _) => metrics.hugetlb = hugetlb(group)?,
        (None, Some(group)) => metrics.hugetlb = hugetlb_of_v2(group)?,
        (None, None) => {}
    }
    Ok(metrics)
}

fn some<T>(message: T) -> MessageField<T> {
    MessageField::some(message)
}

fn pids(group: &Path) -> io::Result<PidsStat> {
    // No limit has always been 0 in this message (containerd/cgroups, `cgroup1/utils.go`).
    let limit = number(group, "pids.max")?;
    Ok(PidsStat {
        current: number(group, "pids.current")?,
        limit: if limit == u64::MAX { 0 } else { limit },
        ..Default::default()
    })
}

fn cpu_usage(group: &Path) -> io::Result<CPUUsage> {
    let stat = Flat::read(group, "cpuacct.stat")?;
    let per_cpu = text(group, "cpuacct.usage_percpu")?;
    Ok(CPUUsage {
        total: number(group, "cpuacct.usage")?,
        kernel: stat.get("system") * NANOSECONDS_PER_TICK,
        user: stat.get("user") * NANOSECONDS_PER_TICK,
        per_cpu: per_cpu.split_ascii_whitespace().map(parse).collect(),
        ..Default::default()
    })
}

fn throttle(group: &Path) -> io::Result<Throttle> {
    let stat = Flat::read(group, "cpu.stat")?;
    Ok(Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
        ..Default::default()
    })
}

fn memory(group: &Path) -> io::Result<MemoryStat> {
    let stat = Flat::read(group, "memory.stat")?;
    Ok(MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        usage: some(memory_entry(group, "memory")?),
        swap: some(memory_entry(group, "memory.memsw")?),
        kernel: some(memory_entry(group, "memory.kmem")?),
        kernel_tcp: some(memory_entry(group, "memory.kmem.tcp")?),
        ..Default::default()
    })
}

fn memory_entry(group: &Path, prefix: &str) -> io::Result<MemoryEntry> {
    let value = |name: &str| number(group, &format!("{prefix}.{name}"));
    Ok(MemoryEntry {
        limit: value("limit_in_bytes")?,
        usage: value("usage_in_bytes")?,
        max: value("max_usage_in_bytes")?,
        failcnt: value("failcnt")?,
        ..Default::default()
    })
}

fn oom_control(group: &Path) -> io::Result<MemoryOomControl> {
    let stat = Flat::read(group, "memory.oom_control")?;
    Ok(MemoryOomControl {
        oom_kill_disable: stat.get("oom_kill_disable"),
        under_oom: stat.get("under_oom"),
        oom_kill: stat.get("oom_kill"),
        ..Default::default()
    })
}

fn blkio(group: &Path) -> io::Result<BlkIOStat> {
    let partitions = fs::read_to_string("/proc/partitions")?;
    let mut stat = BlkIOStat::new();
    for (name, field) in BLKIO_FIELDS {
        *field(&mut stat) = blkio_entries(group, name, &partitions)?;
    }
    Ok(stat)
}

/// The I/O scheduler decides which of these files count.
fn blkio_entries(group: &Path, name: &str, partitions: &str) -> io::Result<Vec<BlkIOEntry>> {
    for file in [
        format!("blkio.{name}_recursive"),
        format!("blkio.bfq.{name}_recursive"),
        format!("blkio.throttle.{name}_recursive"),
        format!("blkio.throttle.{name}"),
    ] {
        let text = text(group, &file)?;
        let entries: Vec<_> = text.lines().filter_map(|l| blkio_entry(l, partitions)).collect();
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

/// `8:16 Read 4096`, or without the operation where there is but one.
fn blkio_entry(line: &str, partitions: &str) -> Option<BlkIOEntry> {
    let (major, minor, rest) = device(line)?;
    let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
    Some(BlkIOEntry {
        op: op.to_owned(),
        device: device_name(partitions, major, minor),
        major,
        minor,
        value: parse(value),
        ..Default::default()
    })
}

/// `/proc/partitions` has columns major, minor, blocks, name.
pub(super) fn device_name(partitions: &str, major: u64, minor: u64) -> String {
    let wanted = (Some(major), Some(minor));
    let name = partitions.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let mut next = || columns.next().and_then(|column| column.parse().ok());
        if (next(), next()) == wanted { columns.nth(1) } else { None }
    });
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

fn rdma(group: &Path) -> io::Result<RdmaStat> {
    Ok(RdmaStat {
        current: rdma_entries(group, "rdma.current")?,
        limit: rdma_entries(group, "rdma.max")?,
        ..Default::default()
    })
}

impl From<Rdma> for RdmaEntry {
    fn from(Rdma { device, handles, objects }: Rdma) -> Self {
        Self { device, hca_handles: handles, hca_objects: objects, ..Default::default() }
    }
}

fn hugetlb(group: &Path) -> io::Result<Vec<HugetlbStat>> {
    let stat = |pagesize: String| {
        let value = |name: &str| number(group, &format!("hugetlb.{pagesize}.{name}"));
        Ok(HugetlbStat {
            usage: value("usage_in_bytes")?,
            max: value("max_usage_in_bytes")?,
            failcnt: value("failcnt")?,
            pagesize,
            ..Default::default()
        })
    };
    page_sizes(group, ".usage_in_bytes")?.into_iter().map(stat).collect()
}

fn hugetlb_of_v2(group: &Path) -> io::Result<Vec<HugetlbStat>> {
    let convert = |stat: shim_protocol::proto::cgroups_v2::HugeTlbStat| HugetlbStat {
        usage: stat.current,
        failcnt: stat.failcnt,
        pagesize: stat.pagesize,
        ..Default::default()
    };
    Ok(v2::hugetlb(group)?.into_iter().map(convert).collect())
}
