//! Figures of today in the messages of 2015, which are those of cgroup v1.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use containerd_api::{
    cgroups::{v1, v2},
    legacy as api,
};
use containerd_core::{
    Any,
    legacy::{Interface, Stats},
};
use prost::{Message, Name};
use shim_protocol::{Error, ErrorKind, Result};

/// # Errors
/// `Unimplemented` for figures of a shim that are not those of cgroups.
pub(super) fn stats_out(stats: Stats) -> Result<api::Stats> {
    let name = stats.cgroup.type_url.rsplit('/').next().unwrap_or_default();
    let cgroup = if name == v1::Metrics::full_name() {
        of_v1(decode(&stats.cgroup)?)
    } else if name == v2::Metrics::full_name() {
        of_v2(decode(&stats.cgroup)?)
    } else {
        return Err(Error::unimplemented(format!("figures of type {name:?}")));
    };
    let since = stats.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(api::Stats {
        network_stats: stats.network.into_iter().map(interface_out).collect(),
        cgroup_stats: Some(cgroup),
        timestamp: since.as_secs(),
    })
}

fn decode<M: Message + Name + Default>(any: &Any) -> Result<M> {
    M::decode(any.value.as_slice()).map_err(|e| {
        Error::caused(ErrorKind::DataLoss, format!("figures of type {}", M::full_name()), e)
    })
}

fn interface_out(interface: Interface) -> api::NetworkStats {
    let [rx_bytes, rx_packets, rx_errors, rx_dropped] = interface.received;
    let [tx_bytes, tx_packets, tx_errors, tx_dropped] = interface.sent;
    api::NetworkStats {
        name: interface.name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    }
}

fn of_v1(metrics: v1::Metrics) -> api::CgroupStats {
    let cpu = metrics.cpu.unwrap_or_default();
    let (usage, throttling) = (cpu.usage.unwrap_or_default(), cpu.throttling.unwrap_or_default());
    let memory = metrics.memory.unwrap_or_default();
    let stats = memory_v1(&memory);
    let entry = |entry: Option<v1::MemoryEntry>| {
        let entry = entry.unwrap_or_default();
        Some(api::MemoryData { usage: entry.usage, max_usage: entry.max, failcnt: entry.failcnt })
    };
    let blkio = metrics.blkio.unwrap_or_default();
    let entries = |entries: Vec<v1::BlkIoEntry>| {
        let entry = |e: v1::BlkIoEntry| api::BlkioStatsEntry {
            major: e.major,
            minor: e.minor,
            op: e.op,
            value: e.value,
        };
        entries.into_iter().map(entry).collect()
    };
    api::CgroupStats {
        cpu_stats: Some(api::CpuStats {
            cpu_usage: Some(api::CpuUsage {
                total_usage: usage.total,
                percpu_usage: usage.per_cpu,
                usage_in_kernelmode: usage.kernel,
                usage_in_usermode: usage.user,
            }),
            throttling_data: Some(api::ThrottlingData {
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled_time: throttling.throttled_time,
            }),
        }),
        memory_stats: Some(api::MemoryStats {
            cache: memory.cache,
            usage: entry(memory.usage),
            swap_usage: entry(memory.swap),
            kernel_usage: entry(memory.kernel),
            stats,
        }),
        blkio_stats: Some(api::BlkioStats {
            io_service_bytes_recursive: entries(blkio.io_service_bytes_recursive),
            io_serviced_recursive: entries(blkio.io_serviced_recursive),
            io_queued_recursive: entries(blkio.io_queued_recursive),
            io_service_time_recursive: entries(blkio.io_service_time_recursive),
            io_wait_time_recursive: entries(blkio.io_wait_time_recursive),
            io_merged_recursive: entries(blkio.io_merged_recursive),
            io_time_recursive: entries(blkio.io_time_recursive),
            sectors_recursive: entries(blkio.sectors_recursive),
        }),
        hugetlb_stats: metrics
            .hugetlb
            .into_iter()
            .map(|pages| {
                let figures = api::HugetlbStats {
                    usage: pages.usage,
                    max_usage: pages.max,
                    failcnt: pages.failcnt,
                };
                (pages.pagesize, figures)
            })
            .collect(),
    }
}

/// The lines of `memory.stat` that the message has.
fn memory_v1(memory: &v1::MemoryStat) -> BTreeMap<String, u64> {
    [
        ("cache", memory.cache),
        ("rss", memory.rss),
        ("rss_huge", memory.rss_huge),
        ("mapped_file", memory.mapped_file),
        ("dirty", memory.dirty),
        ("writeback", memory.writeback),
        ("pgpgin", memory.pg_pg_in),
        ("pgpgout", memory.pg_pg_out),
        ("pgfault", memory.pg_fault),
        ("pgmajfault", memory.pg_maj_fault),
        ("inactive_anon", memory.inactive_anon),
        ("active_anon", memory.active_anon),
        ("inactive_file", memory.inactive_file),
        ("active_file", memory.active_file),
        ("unevictable", memory.unevictable),
        ("hierarchical_memory_limit", memory.hierarchical_memory_limit),
        ("hierarchical_memsw_limit", memory.hierarchical_swap_limit),
        ("total_cache", memory.total_cache),
        ("total_rss", memory.total_rss),
        ("total_mapped_file", memory.total_mapped_file),
        ("total_pgfault", memory.total_pg_fault),
        ("total_pgmajfault", memory.total_pg_maj_fault),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What v2 does not count (processors apart, how often a limit was hit of
/// swap, what waits in a queue) stays empty.
fn of_v2(metrics: v2::Metrics) -> api::CgroupStats {
    const NANOS: u64 = 1000;
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let stats = memory_v2(&memory);
    let hit = metrics.memory_events.map_or(0, |events| events.max);
    let entries = |read: fn(&v2::IoEntry) -> u64, write: fn(&v2::IoEntry) -> u64| {
        let usage = metrics.io.iter().flat_map(|io| &io.usage);
        let both = usage.flat_map(|device| {
            [("Read", read(device)), ("Write", write(device))].map(|(op, value)| {
                api::BlkioStatsEntry {
                    major: device.major,
                    minor: device.minor,
                    op: op.to_owned(),
                    value,
                }
            })
        });
        both.collect::<Vec<_>>()
    };
    api::CgroupStats {
        cpu_stats: Some(api::CpuStats {
            cpu_usage: Some(api::CpuUsage {
                total_usage: cpu.usage_usec.saturating_mul(NANOS),
                percpu_usage: Vec::new(),
                usage_in_kernelmode: cpu.system_usec.saturating_mul(NANOS),
                usage_in_usermode: cpu.user_usec.saturating_mul(NANOS),
            }),
            throttling_data: Some(api::ThrottlingData {
                periods: cpu.nr_periods,
                throttled_periods: cpu.nr_throttled,
                throttled_time: cpu.throttled_usec.saturating_mul(NANOS),
            }),
        }),
        memory_stats: Some(api::MemoryStats {
            cache: memory.file,
            usage: Some(api::MemoryData {
                usage: memory.usage,
                max_usage: memory.max_usage,
                failcnt: hit,
            }),
            swap_usage: Some(api::MemoryData {
                usage: memory.swap_usage,
                max_usage: memory.swap_max_usage,
                failcnt: 0,
            }),
            kernel_usage: Some(api::MemoryData::default()),
            stats,
        }),
        blkio_stats: Some(api::BlkioStats {
            io_service_bytes_recursive: entries(|d| d.rbytes, |d| d.wbytes),
            io_serviced_recursive: entries(|d| d.rios, |d| d.wios),
            ..api::BlkioStats::default()
        }),
        hugetlb_stats: metrics
            .hugetlb
            .into_iter()
            .map(|pages| {
                let figures = api::HugetlbStats {
                    usage: pages.current,
                    max_usage: pages.max,
                    failcnt: pages.failcnt,
                };
                (pages.pagesize, figures)
            })
            .collect(),
    }
}

/// The lines of `memory.stat` that the message has.
fn memory_v2(memory: &v2::MemoryStat) -> BTreeMap<String, u64> {
    [
        ("anon", memory.anon),
        ("file", memory.file),
        ("kernel_stack", memory.kernel_stack),
        ("slab", memory.slab),
        ("sock", memory.sock),
        ("shmem", memory.shmem),
        ("file_mapped", memory.file_mapped),
        ("file_dirty", memory.file_dirty),
        ("file_writeback", memory.file_writeback),
        ("inactive_anon", memory.inactive_anon),
        ("active_anon", memory.active_anon),
        ("inactive_file", memory.inactive_file),
        ("active_file", memory.active_file),
        ("unevictable", memory.unevictable),
        ("pgfault", memory.pgfault),
        ("pgmajfault", memory.pgmajfault),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn stats<M: Message + Name>(metrics: &M) -> Stats {
        Stats {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(7500),
            cgroup: Any { type_url: M::full_name(), value: metrics.encode_to_vec() },
            network: vec![Interface {
                name: "eth0".into(),
                received: [1, 2, 3, 4],
                sent: [5, 6, 7, 8],
            }],
        }
    }

    #[test]
    fn figures_of_either_version_are_told() {
        let v1 = v1::Metrics {
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage {
                    total: 9000,
                    kernel: 3000,
                    user: 6000,
                    per_cpu: vec![9000],
                }),
                throttling: None,
            }),
            memory: Some(v1::MemoryStat {
                rss: 5,
                usage: Some(v1::MemoryEntry { usage: 10, max: 20, failcnt: 1, limit: 30 }),
                ..v1::MemoryStat::default()
            }),
            ..v1::Metrics::default()
        };
        let v2 = v2::Metrics {
            cpu: Some(v2::CpuStat {
                usage_usec: 9,
                user_usec: 6,
                system_usec: 3,
                ..v2::CpuStat::default()
            }),
            memory: Some(v2::MemoryStat {
                usage: 10,
                max_usage: 20,
                anon: 5,
                ..v2::MemoryStat::default()
            }),
            memory_events: Some(v2::MemoryEvents { max: 1, ..v2::MemoryEvents::default() }),
            ..v2::Metrics::default()
        };
        for (told, line) in [(stats_out(stats(&v1)), "rss"), (stats_out(stats(&v2)), "anon")] {
            let told = told.unwrap();
            assert_eq!(told.timestamp, 7);
            assert_eq!(told.network_stats[0].tx_dropped, 8);
            let cgroup = told.cgroup_stats.unwrap();
            let usage = cgroup.cpu_stats.unwrap().cpu_usage.unwrap();
            let times = (usage.total_usage, usage.usage_in_kernelmode, usage.usage_in_usermode);
            assert_eq!(times, (9000, 3000, 6000));
            let memory = cgroup.memory_stats.unwrap();
            let wanted = api::MemoryData { usage: 10, max_usage: 20, failcnt: 1 };
            assert_eq!((memory.usage, memory.stats[line]), (Some(wanted), 5));
        }
    }

    #[test]
    fn other_figures_are_refused() {
        let mut stats = stats(&v1::Metrics::default());
        stats.cgroup.type_url = "example.Metrics".into();
        assert_eq!(stats_out(stats).unwrap_err().kind(), ErrorKind::Unimplemented);
    }
}
