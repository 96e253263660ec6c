//! Figures of containers, under the names that containerd gives them
//! (`core/metrics/cgroups`), so that dashboards made for it work. The names do
//! not keep to Prometheus's own rules, and the values are gauges all of them.

use containerd_api::cgroups::{v1, v2};
use containerd_core::tasks::Metric;
use prost::{Message, Name};
use shim_protocol::Id;

use super::text::{Families, Kind};

/// A figure of cgroup v1: name, explanation and value.
type OfV1 = (&'static str, &'static str, fn(&v1::MemoryStat) -> u64);
/// A figure of cgroup v2.
type OfV2 = (&'static str, &'static str, fn(&v2::MemoryStat) -> u64);

const MEMORY_V1: &[OfV1] = &[
    ("memory_cache_bytes", "The cache amount used", |m| m.cache),
    ("memory_rss_bytes", "The rss amount used", |m| m.rss),
    ("memory_rss_huge_bytes", "The rss_huge amount used", |m| m.rss_huge),
    ("memory_mapped_file_bytes", "The mapped_file amount used", |m| m.mapped_file),
    ("memory_dirty_bytes", "The dirty amount", |m| m.dirty),
    ("memory_writeback_bytes", "The writeback amount", |m| m.writeback),
    ("memory_pgpgin_bytes", "The pgpgin amount", |m| m.pg_pg_in),
    ("memory_pgpgout_bytes", "The pgpgout amount", |m| m.pg_pg_out),
    ("memory_pgfault_bytes", "The pgfault amount", |m| m.pg_fault),
    ("memory_pgmajfault_bytes", "The pgmajfault amount", |m| m.pg_maj_fault),
    ("memory_inactive_anon_bytes", "The inactive_anon amount", |m| m.inactive_anon),
    ("memory_active_anon_bytes", "The active_anon amount", |m| m.active_anon),
    ("memory_inactive_file_bytes", "The inactive_file amount", |m| m.inactive_file),
    ("memory_active_file_bytes", "The active_file amount", |m| m.active_file),
    ("memory_unevictable_bytes", "The unevictable amount", |m| m.unevictable),
    ("memory_hierarchical_memory_limit_bytes", "The hierarchical_memory_limit amount", |m| {
        m.hierarchical_memory_limit
    }),
    ("memory_hierarchical_memsw_limit_bytes", "The hierarchical_memsw_limit amount", |m| {
        m.hierarchical_swap_limit
    }),
    ("memory_total_cache_bytes", "The total_cache amount used", |m| m.total_cache),
    ("memory_total_rss_bytes", "The total_rss amount used", |m| m.total_rss),
    ("memory_total_rss_huge_bytes", "The total_rss_huge amount used", |m| m.total_rss_huge),
    ("memory_total_mapped_file_bytes", "The total_mapped_file amount used", |m| {
        m.total_mapped_file
    }),
    ("memory_total_dirty_bytes", "The total_dirty amount", |m| m.total_dirty),
    ("memory_total_writeback_bytes", "The total_writeback amount", |m| m.total_writeback),
    ("memory_total_pgpgin_bytes", "The total_pgpgin amount", |m| m.total_pg_pg_in),
    ("memory_total_pgpgout_bytes", "The total_pgpgout amount", |m| m.total_pg_pg_out),
    ("memory_total_pgfault_bytes", "The total_pgfault amount", |m| m.total_pg_fault),
    ("memory_total_pgmajfault_bytes", "The total_pgmajfault amount", |m| m.total_pg_maj_fault),
    ("memory_total_inactive_anon_bytes", "The total_inactive_anon amount", |m| {
        m.total_inactive_anon
    }),
    ("memory_total_active_anon_bytes", "The total_active_anon amount", |m| m.total_active_anon),
    ("memory_total_inactive_file_bytes", "The total_inactive_file amount", |m| {
        m.total_inactive_file
    }),
    ("memory_total_active_file_bytes", "The total_active_file amount", |m| m.total_active_file),
    ("memory_total_unevictable_bytes", "The total_unevictable amount", |m| m.total_unevictable),
];

const MEMORY_V2: &[OfV2] = &[
    ("memory_usage_bytes", "Current memory usage (cgroup v2)", |m| m.usage),
    ("memory_usage_limit_bytes", "Current memory usage limit (cgroup v2)", |m| m.usage_limit),
    ("memory_swap_usage_bytes", "Current swap usage (cgroup v2)", |m| m.swap_usage),
    ("memory_swap_limit_bytes", "Current swap usage limit (cgroup v2)", |m| m.swap_limit),
    ("memory_file_mapped_bytes", "The file_mapped amount", |m| m.file_mapped),
    ("memory_file_dirty_bytes", "The file_dirty amount", |m| m.file_dirty),
    ("memory_file_writeback_bytes", "The file_writeback amount", |m| m.file_writeback),
    ("memory_pgactivate_bytes", "The pgactivate amount", |m| m.pgactivate),
    ("memory_pgdeactivate_bytes", "The pgdeactivate amount", |m| m.pgdeactivate),
    ("memory_pgfault_bytes", "The pgfault amount", |m| m.pgfault),
    ("memory_pgmajfault_bytes", "The pgmajfault amount", |m| m.pgmajfault),
    ("memory_pglazyfree_bytes", "The pglazyfree amount", |m| m.pglazyfree),
    ("memory_pgrefill_bytes", "The pgrefill amount", |m| m.pgrefill),
    ("memory_pglazyfreed_bytes", "The pglazyfreed amount", |m| m.pglazyfreed),
    ("memory_pgscan_bytes", "The pgscan amount", |m| m.pgscan),
    ("memory_pgsteal_bytes", "The pgsteal amount", |m| m.pgsteal),
    ("memory_inactive_anon_bytes", "The inactive_anon amount", |m| m.inactive_anon),
    ("memory_active_anon_bytes", "The active_anon amount", |m| m.active_anon),
    ("memory_inactive_file_bytes", "The inactive_file amount", |m| m.inactive_file),
    ("memory_active_file_bytes", "The active_file amount", |m| m.active_file),
    ("memory_unevictable_bytes", "The unevictable amount", |m| m.unevictable),
    ("memory_anon_bytes", "The anon amount", |m| m.anon),
    ("memory_file_bytes", "The file amount", |m| m.file),
    ("memory_kernel_stack_bytes", "The kernel_stack amount", |m| m.kernel_stack),
    ("memory_slab_bytes", "The slab amount", |m| m.slab),
    ("memory_sock_bytes", "The sock amount", |m| m.sock),
    ("memory_shmem_bytes", "The shmem amount", |m| m.shmem),
    ("memory_anon_thp_bytes", "The anon_thp amount", |m| m.anon_thp),
    ("memory_slab_reclaimable_bytes", "The slab_reclaimable amount", |m| m.slab_reclaimable),
    ("memory_slab_unreclaimable_bytes", "The slab_unreclaimable amount", |m| m.slab_unreclaimable),
    ("memory_workingset_refault_bytes", "The workingset_refault amount", |m| m.workingset_refault),
    ("memory_workingset_activate_bytes", "The workingset_activate amount", |m| {
        m.workingset_activate
    }),
    ("memory_workingset_nodereclaim_bytes", "The workingset_nodereclaim amount", |m| {
        m.workingset_nodereclaim
    }),
    ("memory_thp_fault_alloc_bytes", "The thp_fault_alloc amount", |m| m.thp_fault_alloc),
    ("memory_thp_collapse_alloc_bytes", "The thp_collapse_alloc amount", |m| m.thp_collapse_alloc),
];

/// Adds what a container uses. Figures that are not those of a cgroup are left
/// out.
pub(super) fn add(families: &mut Families, namespace: &Id, metric: &Metric) {
    let name = metric.data.type_url.rsplit('/').next().unwrap_or_default();
    let mut container = Container { families, id: &metric.container, namespace };
    if name == v1::Metrics::full_name() {
        if let Ok(metrics) = v1::Metrics::decode(metric.data.value.as_slice()) {
            container.add_v1(&metrics);
        }
    } else if name == v2::Metrics::full_name()
        && let Ok(metrics) = v2::Metrics::decode(metric.data.value.as_slice())
    {
        container.add_v2(&metrics);
    }
}

struct Container<'a> {
    families: &'a mut Families,
    id: &'a Id,
    namespace: &'a Id,
}

impl Container<'_> {
    fn gauge(&mut self, name: &str, help: &'static str, value: u64) {
        self.labelled(name, help, &[], value);
    }

    fn labelled(
        &mut self,
        name: &str,
        help: &'static str,
        more: &[(&'static str, &str)],
        value: u64,
    ) {
        let mut labels =
            vec![("container_id", self.id.as_str()), ("namespace", self.namespace.as_str())];
        labels.extend(more);
        let name = format!("container_{name}");
        self.families.add(&name, Kind::Gauge, help, &labels, value as f64);
    }

    fn pids(&mut self, current: u64, limit: u64) {
        self.gauge("pids_current", "The current number of pids", current);
        self.gauge("pids_limit", "The limit to the number of pids allowed", limit);
    }

    fn add_v1(&mut self, metrics: &v1::Metrics) {
        if let Some(pids) = &metrics.pids {
            self.pids(pids.current, pids.limit);
        }
        if let Some(cpu) = &metrics.cpu {
            self.cpu_v1(cpu);
        }
        if let Some(memory) = &metrics.memory {
            for (name, help, value) in MEMORY_V1 {
                self.gauge(name, help, value(memory));
            }
            let kinds = [
                ("usage", &memory.usage),
                ("swap", &memory.swap),
                ("kernel", &memory.kernel),
                ("kerneltcp", &memory.kernel_tcp),
            ];
            for (kind, entry) in kinds {
                let Some(entry) = entry else { continue };
                let name = |what: &str| format!("memory_{kind}_{what}");
                self.gauge(&name("limit_bytes"), "The limit of the memory", entry.limit);
                self.gauge(&name("usage_bytes"), "The usage of the memory", entry.usage);
                self.gauge(&name("max_bytes"), "The maximum usage of the memory", entry.max);
                self.gauge(&name("failcnt_total"), "How often the limit was hit", entry.failcnt);
            }
        }
        if let Some(oom) = &metrics.memory_oom_control {
            self.oom(oom.oom_kill);
        }
        if let Some(blkio) = &metrics.blkio {
            self.blkio(blkio);
        }
        for pages in &metrics.hugetlb {
            let page = [("page", pages.pagesize.as_str())];
            self.labelled("hugetlb_usage_bytes", "The hugetlb usage", &page, pages.usage);
            self.labelled("hugetlb_max_bytes", "The hugetlb maximum usage", &page, pages.max);
            self.labelled("hugetlb_failcnt_total", "The hugetlb failcnt", &page, pages.failcnt);
        }
    }

    fn cpu_v1(&mut self, cpu: &v1::CpuStat) {
        if let Some(usage) = &cpu.usage {
            self.gauge("cpu_total_nanoseconds", "The total cpu time", usage.total);
            self.gauge("cpu_kernel_nanoseconds", "The total kernel cpu time", usage.kernel);
            self.gauge("cpu_user_nanoseconds", "The total user cpu time", usage.user);
            for (number, time) in usage.per_cpu.iter().enumerate() {
                let number = number.to_string();
                let help = "The total cpu time per cpu";
                self.labelled("per_cpu_nanoseconds", help, &[("cpu", &number)], *time);
            }
        }
        if let Some(throttling) = &cpu.throttling {
            let help = "The total cpu throttle periods";
            self.gauge("cpu_throttle_periods_total", help, throttling.periods);
            let help = "The total cpu throttled periods";
            self.gauge("cpu_throttled_periods_total", help, throttling.throttled_periods);
            let help = "The total cpu throttled time";
            self.gauge("cpu_throttled_time_nanoseconds", help, throttling.throttled_time);
        }
    }

    fn oom(&mut self, count: u64) {
        let help = "The number of times a container has received an oom event";
        self.gauge("memory_oom_total", help, count);
    }

    fn blkio(&mut self, blkio: &v1::BlkIoStat) {
        for (name, help, entries) in [
            (
                "io_merged_recursive_total",
                "The blkio io merged recursive",
                &blkio.io_merged_recursive,
            ),
            (
                "io_queued_recursive_total",
                "The blkio io queued recursive",
                &blkio.io_queued_recursive,
            ),
            (
                "io_service_bytes_recursive_bytes",
                "The blkio io service bytes recursive",
                &blkio.io_service_bytes_recursive,
            ),
            (
                "io_service_time_recursive_total",
                "The blkio io service time recursive",
                &blkio.io_service_time_recursive,
            ),
            (
                "io_serviced_recursive_total",
                "The blkio io serviced recursive",
                &blkio.io_serviced_recursive,
            ),
            ("io_time_recursive_total", "The blkio io time recursive", &blkio.io_time_recursive),
            ("sectors_recursive_total", "The blkio sectors recursive", &blkio.sectors_recursive),
        ] {
            for entry in entries {
                let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
                let labels: [(&'static str, &str); 4] = [
                    ("op", &entry.op),
                    ("device", &entry.device),
                    ("major", &major),
                    ("minor", &minor),
                ];
                self.labelled(&format!("blkio_{name}"), help, &labels, entry.value);
            }
        }
    }

    fn add_v2(&mut self, metrics: &v2::Metrics) {
        if let Some(pids) = &metrics.pids {
            self.pids(pids.current, pids.limit);
        }
        if let Some(cpu) = &metrics.cpu {
            for (name, help, value) in [
                ("usage_usec_microseconds", "Total cpu usage (cgroup v2)", cpu.usage_usec),
                (
                    "user_usec_microseconds",
                    "Current cpu usage in user space (cgroup v2)",
                    cpu.user_usec,
                ),
                (
                    "system_usec_microseconds",
                    "Current cpu usage in kernel space (cgroup v2)",
                    cpu.system_usec,
                ),
                ("nr_periods_total", "Current cpu number of periods", cpu.nr_periods),
                (
                    "nr_throttled_total",
                    "Total number of times tasks have been throttled",
                    cpu.nr_throttled,
                ),
                (
                    "throttled_usec_microseconds",
                    "Total time duration for which tasks have been throttled",
                    cpu.throttled_usec,
                ),
            ] {
                self.gauge(&format!("cpu_{name}"), help, value);
            }
        }
        if let Some(memory) = &metrics.memory {
            for (name, help, value) in MEMORY_V2 {
                self.gauge(name, help, value(memory));
            }
        }
        if let Some(events) = &metrics.memory_events {
            self.oom(events.oom);
        }
        for device in metrics.io.iter().flat_map(|io| &io.usage) {
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            let labels: [(&'static str, &str); 2] = [("major", &major), ("minor", &minor)];
            self.labelled("io_rbytes_bytes", "IO bytes read", &labels, device.rbytes);
            self.labelled("io_wbytes_bytes", "IO bytes written", &labels, device.wbytes);
            self.labelled("io_rios_total", "Number of read IOs", &labels, device.rios);
            self.labelled("io_wios_total", "Number of write IOs", &labels, device.wios);
        }
    }
}
