//! Figures of the daemon.

use std::{fs, io};

use containerd_core::{gc::Passes, telemetry::Measured};

use super::{
    Sources,
    text::{Families, Kind},
};
use crate::cli::{REVISION, VERSION};

/// What the daemon is up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) starts: Measured,
    pub(super) garbage: Passes,
    pub(super) containers: usize,
    pub(super) events: u64,
    pub(super) subscribers: usize,
    /// Descriptors that are open.
    pub(super) descriptors: usize,
    /// Tasks of the runtime, where Go has goroutines.
    pub(super) tasks: usize,
    pub(super) process: Process,
}

/// What the kernel says of the daemon's process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    max_descriptors: f64,
}

/// Reads them; what cannot be read is zero. `tasks` is how many the runtime has.
pub(super) fn read(sources: &Sources, tasks: usize) -> Figures {
    Figures {
        starts: sources.tasks.start_times(),
        garbage: sources.gc.passes(),
        containers: sources.tasks.count(),
        events: sources.events.count(),
        subscribers: sources.events.subscribers(),
        descriptors: fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or_default(),
        tasks,
        process: process().unwrap_or_default(),
    }
}

/// Fields of `/proc/self/stat` behind the name in parentheses (proc(5)).
fn process() -> io::Result<Process> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |number: usize| {
        fields.get(number - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default()
    };
    let ask = |name| nix::unistd::sysconf(name).ok().flatten().unwrap_or_default() as f64;
    let ticks = ask(nix::unistd::SysconfVar::CLK_TCK).max(1.0);
    let page = ask(nix::unistd::SysconfVar::PAGE_SIZE);
    let limits = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    Ok(Process {
        cpu_seconds: (field(14) + field(15)) / ticks,
        virtual_bytes: field(23),
        resident_bytes: field(24) * page,
        max_descriptors: limits.0 as f64,
    })
}

impl Figures {
    pub(super) fn add_to(&self, families: &mut Families) {
        let mut gauge = |name, help, value| families.add(name, Kind::Gauge, help, &[], value);
        gauge("containerd_containers", "Tasks in all namespaces", self.containers as f64);
        gauge("containerd_events_subscribers", "Subscribers of events", self.subscribers as f64);
        gauge("containerd_async_tasks", "Tasks of the daemon's runtime", self.tasks as f64);
        gauge("process_open_fds", "Number of open file descriptors.", self.descriptors as f64);
        let process = &self.process;
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process.max_descriptors,
        );
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process.resident_bytes,
        );
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            process.virtual_bytes,
        );
        families.add(
            "process_cpu_seconds_total",
            Kind::Counter,
            "Total user and system CPU time spent in seconds.",
            &[],
            process.cpu_seconds,
        );
        families.add(
            "containerd_events_total",
            Kind::Counter,
            "Events published since the daemon began",
            &[],
            self.events as f64,
        );
        // Its name is containerd's.
        let build = [("version", VERSION), ("revision", REVISION)];
        let help = "containerd build information";
        families.add("containerd_build_info_total", Kind::Counter, help, &build, 1.0);
        self.add_starts(families);
        self.add_garbage(families);
    }

    /// Their names are containerd's (`plugins/gc/scheduler.go`).
    fn add_garbage(&self, families: &mut Families) {
        let Passes { succeeded, failed } = &self.garbage;
        for (status, count) in [("success", succeeded.count), ("fail", *failed)] {
            families.add(
                "containerd_gc_collections_total",
                Kind::Counter,
                "Passes of the garbage collector",
                &[("status", status)],
                count as f64,
            );
        }
        let help = "Time that a pass of the garbage collector takes";
        families.add_histogram("containerd_gc_gc_seconds", help, &[], succeeded);
    }

    fn add_starts(&self, families: &mut Families) {
        let mut part = |suffix, labels: &[(&'static str, &str)], value| {
            let name = "containerd_container_start_time_seconds";
            let help = "Time from the request to make a task until it runs";
            families.add_part(name, Kind::Summary, help, suffix, labels, value);
        };
        for (thousandth, duration) in self.starts.percentiles {
            let quantile = (thousandth as f64 / 1000.0).to_string();
            part("", &[("quantile", &quantile)], duration.as_secs_f64());
        }
        part("_sum", &[], self.starts.total.as_secs_f64());
        part("_count", &[], self.starts.count as f64);
    }
}
