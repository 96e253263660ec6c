//! Limits, in v1's files and in v2's (OCI runtime specification,
//! `config-linux.md`, "Control Groups"; cgroup-v1/, cgroup-v2.rst).

use std::{fs, path::Path};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma,
    LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};
use shim_protocol::{Error, Result};

use super::{Groups, Place, missing, tree};

pub(super) fn apply(groups: &Groups, resources: &LinuxResources) -> Result<()> {
    if let Some(memory) = resources.memory() {
        apply_memory(groups, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(groups, cpu)?;
        apply_cpuset(groups, cpu)?;
    }
    // As with runc, 0 is no limit but a field that was not set.
    if let Some(pids) = resources.pids().as_ref().filter(|pids| pids.limit() != 0) {
        let (Place::V1(folder) | Place::V2(folder)) = groups.place("pids")?;
        set(folder, "pids.max", limit(pids.limit()))?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_block_io(groups, block_io)?;
    }
    for pages in resources.hugepage_limits().iter().flatten() {
        apply_pages(groups, pages)?;
    }
    if let Some(network) = resources.network() {
        apply_network(groups, network)?;
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        apply_rdma(groups, device, rdma)?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        apply_unified(groups, file, value)?;
    }
    Ok(())
}

fn set(folder: &Path, file: &str, value: impl ToString) -> Result<()> {
    tree::write(&folder.join(file), &value.to_string())
}

/// Files that a kernel may be built without are only needed for a limit.
fn set_all<V: ToString>(folder: &Path, values: &[(&str, Option<V>)]) -> Result<()> {
    for (file, value) in values {
        if let Some(value) = value {
            set(folder, file, value.to_string())?;
        }
    }
    Ok(())
}

/// In v2 "max" is what -1 is in v1.
fn limit(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn apply_memory(groups: &Groups, memory: &LinuxMemory) -> Result<()> {
    let reservation = memory.reservation();
    match groups.place("memory")? {
        Place::V1(folder) => {
            limit_memory_v1(folder, memory.limit(), memory.swap())?;
            set_all(
                folder,
                &[
                    ("memory.soft_limit_in_bytes", reservation),
                    ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp()),
                    ("memory.swappiness", memory.swappiness().map(|value| value as i64)),
                    // 1 switches the killer off, but 0 is refused where others depend on it.
                    (
                        "memory.oom_control",
                        memory.disable_oom_killer().filter(|off| *off).map(i64::from),
                    ),
                ],
            )
        }
        Place::V2(folder) => {
            let swap = match (memory.swap(), memory.limit()) {
                (None | Some(0), _) => None,
                (Some(..0), _) => Some(-1),
                // v1 limits both together, v2 each.
                (Some(both), Some(limit @ 0..)) if both >= limit => Some(both - limit),
                (Some(_), Some(0..)) => {
                    return Err(Error::invalid("linux.resources.memory: swap is less than limit"));
                }
                (Some(_), _) => {
                    return Err(Error::invalid("linux.resources.memory: swap without limit"));
                }
            };
            if memory.disable_oom_killer() == Some(true) {
                return Err(Error::invalid(
                    "linux.resources.memory.disableOOMKiller: not possible in cgroup v2",
                ));
            }
            let positive = |value: Option<i64>| value.filter(|value| *value != 0).map(limit);
            set_all(
                folder,
                &[
                    ("memory.swap.max", swap.map(limit)),
                    ("memory.max", positive(memory.limit())),
                    ("memory.low", positive(reservation)),
                ],
            )
        }
    }
}

/// The limit with swap must at no time be less than that without.
fn limit_memory_v1(folder: &Path, memory: Option<i64>, swap: Option<i64>) -> Result<()> {
    const MEMORY: &str = "memory.limit_in_bytes";
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    let memory = memory.filter(|value| *value != 0);
    let swap = swap.filter(|value| *value != 0);
    let (Some(limit), Some(both)) = (memory, swap) else {
        set_all(folder, &[(MEMORY, memory), (BOTH, swap)])?;
        return Ok(());
    };
    let current = fs::read_to_string(folder.join(BOTH)).ok();
    let current = current.and_then(|text| text.trim().parse::<i64>().ok());
    if both < 0 || current.is_some_and(|current| current < both) {
        set(folder, BOTH, both)?;
        set(folder, MEMORY, limit)
    } else {
        set(folder, MEMORY, limit)?;
        set(folder, BOTH, both)
    }
}

fn apply_cpu(groups: &Groups, cpu: &LinuxCpu) -> Result<()> {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let realtime = (cpu.realtime_runtime(), cpu.realtime_period());
    let asked = shares.is_some() || quota.is_some() || period.is_some();
    if !asked && realtime == (None, None) && cpu.idle().is_none() && cpu.burst().is_none() {
        return Ok(());
    }
    match groups.place("cpu")? {
        Place::V1(folder) => {
            let text = |value: Option<u64>| value.map(|value| value.to_string());
            let signed = |value: Option<i64>| value.map(|value| value.to_string());
            set_all(
                folder,
                &[
                    ("cpu.shares", text(shares)),
                    ("cpu.rt_period_us", text(realtime.1)),
                    ("cpu.rt_runtime_us", signed(realtime.0)),
                ],
            )?;
            let period = ("cpu.cfs_period_us", text(period));
            let quota = ("cpu.cfs_quota_us", signed(quota));
            // A shorter period may need the new quota, and a larger quota the new period.
            if set_all(folder, &[period.clone(), quota.clone()]).is_err() {
                set_all(folder, &[quota, period])?;
            }
            let burst = ("cpu.cfs_burst_us", text(cpu.burst()));
            set_all(folder, &[burst, ("cpu.idle", signed(cpu.idle()))])
        }
        Place::V2(folder) => {
            if realtime != (None, None) {
                return Err(Error::invalid(
                    "linux.resources.cpu.realtimeRuntime: not possible in cgroup v2",
                ));
            }
            let max = match (quota, period) {
                (None, None) => None,
                (None, Some(period)) => Some(format!("max {period}")),
                (Some(quota), None) => Some(limit(quota)),
                (Some(quota), Some(period)) => Some(format!("{} {period}", limit(quota))),
            };
            // An idle group takes no weight.
            let weight = shares.filter(|_| cpu.idle() != Some(1)).map(weight_of_shares);
            set_all(
                folder,
                &[
                    ("cpu.idle", cpu.idle().map(|idle| idle.to_string())),
                    ("cpu.weight", weight.map(|weight| weight.to_string())),
                    ("cpu.max", max),
                    ("cpu.max.burst", cpu.burst().map(|burst| burst.to_string())),
                ],
            )
        }
    }
}

/// From 2..=262144 to 1..=10000, as runc does it.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn apply_cpuset(groups: &Groups, cpu: &LinuxCpu) -> Result<()> {
    let values = [("cpuset.cpus", cpu.cpus().clone()), ("cpuset.mems", cpu.mems().clone())];
    let values = values.map(|(file, value)| (file, value.filter(|value| !value.is_empty())));
    if values.iter().all(|(_, value)| value.is_none()) {
        return Ok(());
    }
    let (Place::V1(folder) | Place::V2(folder)) = groups.place("cpuset")?;
    set_all(folder, &values)
}

fn apply_block_io(groups: &Groups, io: &LinuxBlockIo) -> Result<()> {
    let weight = io.weight().filter(|weight| *weight != 0);
    let leaf_weight = io.leaf_weight().filter(|weight| *weight != 0);
    let devices = || io.weight_device().iter().flatten();
    let throttles = [
        (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
        (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
        (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
        (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
    ];
    let throttles = throttles.iter().flat_map(|(list, v1, v2)| {
        list.iter().flatten().map(move |device: &LinuxThrottleDevice| (device, *v1, *v2))
    });
    let mut asked = throttles.clone().count() + devices().count();
    asked += usize::from(weight.is_some()) + usize::from(leaf_weight.is_some());
    if asked == 0 {
        return Ok(());
    }
    match groups.place("blkio") {
        Ok(Place::V1(folder)) => {
            // Of the schedulers with weights, kernels since 5.0 have only BFQ.
            let prefix = if folder.join("blkio.weight").exists() { "blkio" } else { "blkio.bfq" };
            set_all(
                folder,
                &[
                    (&format!("{prefix}.weight"), weight),
                    (&format!("{prefix}.leaf_weight"), leaf_weight),
                ],
            )?;
            for device in devices() {
                set_weight(folder, &format!("{prefix}.weight_device"), device, device.weight())?;
                let file = format!("{prefix}.leaf_weight_device");
                set_weight(folder, &file, device, device.leaf_weight())?;
            }
            for (device, file, _) in throttles {
                let (major, minor, rate) = (device.major(), device.minor(), device.rate());
                set(folder, file, format!("{major}:{minor} {rate}"))?;
            }
            Ok(())
        }
        _ => {
            let Place::V2(folder) = groups.place("io")? else { return Err(missing("io")) };
            if leaf_weight.is_some() {
                return Err(Error::invalid(
                    "linux.resources.blockIO.leafWeight: not possible in cgroup v2",
                ));
            }
            let bfq = folder.join("io.bfq.weight").exists();
            if let Some(weight) = weight {
                match bfq {
                    true => set(folder, "io.bfq.weight", weight)?,
                    false => set(folder, "io.weight", weight_of_block_io(weight))?,
                }
            }
            for device in devices() {
                let file = if bfq { "io.bfq.weight" } else { "io.weight" };
                let convert = |w| if bfq { u64::from(w) } else { weight_of_block_io(w) };
                set_weight(folder, file, device, device.weight().map(convert))?;
            }
            for (device, _, key) in throttles {
                let (major, minor, rate) = (device.major(), device.minor(), device.rate());
                set(folder, "io.max", format!("{major}:{minor} {key}={rate}"))?;
            }
            Ok(())
        }
    }
}

/// From 10..=1000 to 1..=10000, as runc does it.
fn weight_of_block_io(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn set_weight(
    folder: &Path,
    file: &str,
    device: &LinuxWeightDevice,
    weight: Option<impl ToString>,
) -> Result<()> {
    let Some(weight) = weight else { return Ok(()) };
    set(folder, file, format!("{}:{} {}", device.major(), device.minor(), weight.to_string()))
}

fn apply_pages(groups: &Groups, pages: &LinuxHugepageLimit) -> Result<()> {
    let size = pages.page_size();
    if size.contains('/') {
        return Err(Error::invalid(format!("linux.resources.hugepageLimits: page size {size:?}")));
    }
    match groups.place("hugetlb")? {
        Place::V1(folder) => {
            set(folder, &format!("hugetlb.{size}.limit_in_bytes"), pages.limit())?;
            let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
            // Since Linux 5.7.
            if folder.join(&reserved).exists() {
                set(folder, &reserved, pages.limit())
            } else {
                Ok(())
            }
        }
        Place::V2(folder) => {
            set(folder, &format!("hugetlb.{size}.max"), limit(pages.limit()))?;
            let reserved = format!("hugetlb.{size}.rsvd.max");
            if folder.join(&reserved).exists() {
                set(folder, &reserved, limit(pages.limit()))
            } else {
                Ok(())
            }
        }
    }
}

fn apply_network(groups: &Groups, network: &LinuxNetwork) -> Result<()> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        match groups.v1("net_cls") {
            Some(folder) => set(folder, "net_cls.classid", class)?,
            None => return Err(missing("net_cls")),
        }
    }
    for priority in network.priorities().iter().flatten() {
        match groups.v1("net_prio") {
            Some(folder) => {
                let value = format!("{} {}", priority.name(), priority.priority());
                set(folder, "net_prio.ifpriomap", value)?;
            }
            None => return Err(missing("net_prio")),
        }
    }
    Ok(())
}

fn apply_rdma(groups: &Groups, device: &str, rdma: &LinuxRdma) -> Result<()> {
    let (Place::V1(folder) | Place::V2(folder)) = groups.place("rdma")?;
    let value = |count: Option<u32>| count.map_or("max".to_owned(), |count| count.to_string());
    let (handles, objects) = (value(rdma.hca_handles()), value(rdma.hca_objects()));
    set(folder, "rdma.max", format!("{device} hca_handle={handles} hca_object={objects}"))
}

/// Any file of the v2 group, by the client's choice.
fn apply_unified(groups: &Groups, file: &str, value: &str) -> Result<()> {
    let field = || format!("linux.resources.unified: {file:?}");
    // Of the core's own files only these two are limits.
    let core = file.starts_with("cgroup.") && !file.starts_with("cgroup.max.");
    if file.contains('/') || !file.contains('.') || core {
        return Err(Error::invalid(field()));
    }
    match &groups.v2 {
        Some(unified) => value.lines().try_for_each(|line| set(&unified.group, file, line)),
        None => Err(Error::precondition(format!("{}: no cgroup v2 here", field()))),
    }
}
