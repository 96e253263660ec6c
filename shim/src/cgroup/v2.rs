//! Numbers of cgroup v2 (kernel, Documentation/admin-guide/cgroup-v2).

use std::{io, path::Path};

use protobuf::MessageField;
use shim_protocol::proto::cgroups_v2::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};

use super::files::{Flat, Rdma, device, number, page_sizes, pair, parse, rdma_entries, text};

pub(super) fn metrics(group: &Path) -> io::Result<Metrics> {
    Ok(Metrics {
        pids: MessageField::some(pids(group)?),
        cpu: MessageField::some(cpu(group)?),
        memory: MessageField::some(memory(group)?),
        memory_events: MessageField::some(memory_events(group)?),
        rdma: MessageField::some(rdma(group)?),
        io: MessageField::some(io_stat(group)?),
        hugetlb: hugetlb(group)?,
        ..Default::default()
    })
}

fn pids(group: &Path) -> io::Result<PidsStat> {
    Ok(PidsStat {
        current: number(group, "pids.current")?,
        limit: number(group, "pids.max")?,
        ..Default::default()
    })
}

fn cpu(group: &Path) -> io::Result<CPUStat> {
    let stat = Flat::read(group, "cpu.stat")?;
    Ok(CPUStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        psi: pressure(group, "cpu.pressure")?,
        ..Default::default()
    })
}

fn memory(group: &Path) -> io::Result<MemoryStat> {
    let stat = Flat::read(group, "memory.stat")?;
    Ok(MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        // Split in two since Linux 5.9; the message has one.
        workingset_refault: stat.get("workingset_refault")
            + stat.get("workingset_refault_anon")
            + stat.get("workingset_refault_file"),
        workingset_activate: stat.get("workingset_activate")
            + stat.get("workingset_activate_anon")
            + stat.get("workingset_activate_file"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        usage: number(group, "memory.current")?,
        usage_limit: number(group, "memory.max")?,
        max_usage: number(group, "memory.peak")?,
        swap_usage: number(group, "memory.swap.current")?,
        swap_limit: number(group, "memory.swap.max")?,
        swap_max_usage: number(group, "memory.swap.peak")?,
        psi: pressure(group, "memory.pressure")?,
        ..Default::default()
    })
}

fn memory_events(group: &Path) -> io::Result<MemoryEvents> {
    let events = Flat::read(group, "memory.events")?;
    Ok(MemoryEvents {
        low: events.get("low"),
        high: events.get("high"),
        max: events.get("max"),
        oom: events.get("oom"),
        oom_kill: events.get("oom_kill"),
        oom_group_kill: events.get("oom_group_kill"),
        ..Default::default()
    })
}

fn io_stat(group: &Path) -> io::Result<IOStat> {
    let entry = |line: &str| {
        let (major, minor, rest) = device(line)?;
        let value = |name| pair(rest, name).map_or(0, parse);
        Some(IOEntry {
            major,
            minor,
            rbytes: value("rbytes"),
            wbytes: value("wbytes"),
            rios: value("rios"),
            wios: value("wios"),
            ..Default::default()
        })
    };
    Ok(IOStat {
        usage: text(group, "io.stat")?.lines().filter_map(entry).collect(),
        psi: pressure(group, "io.pressure")?,
        ..Default::default()
    })
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

pub(super) fn hugetlb(group: &Path) -> io::Result<Vec<HugeTlbStat>> {
    let stat = |pagesize: String| {
        let file = |name: &str| format!("hugetlb.{pagesize}.{name}");
        Ok(HugeTlbStat {
            current: number(group, &file("current"))?,
            max: number(group, &file("max"))?,
            failcnt: Flat::read(group, &file("events"))?.get("max"),
            pagesize,
            ..Default::default()
        })
    };
    page_sizes(group, ".current")?.into_iter().map(stat).collect()
}

/// Pressure stall information (kernel, Documentation/accounting/psi).
fn pressure(group: &Path, name: &str) -> io::Result<MessageField<PSIStats>> {
    let text = text(group, name)?;
    let data = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let average = |name| pair(line?, name)?.parse().ok();
        line.map(|line| PSIData {
            avg10: average("avg10").unwrap_or_default(),
            avg60: average("avg60").unwrap_or_default(),
            avg300: average("avg300").unwrap_or_default(),
            total: pair(line, "total").map_or(0, parse),
            ..Default::default()
        })
    };
    if text.is_empty() {
        return Ok(MessageField::none());
    }
    Ok(MessageField::some(PSIStats {
        some: data("some").into(),
        full: data("full").into(),
        ..Default::default()
    }))
}
