//! Limits as properties of a unit (org.freedesktop.systemd1(5),
//! systemd.resource-control(5)), as runc sets them. systemd writes what it knows
//! into the groups again whenever it reloads, so it has to know it.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use shim_protocol::{Error, Result};

use super::wire::{Property, Value};
use crate::oci::cgroup::{devices, resources::weight_of_shares};

/// What systemd takes for no limit.
const INFINITY: u64 = u64::MAX;
/// Periods of the processor's quota since this version; sets of processors and
/// of memory nodes two versions later; idle groups later still.
const HAS_PERIOD: u32 = 242;
const HAS_CPUSET: u32 = 244;
const HAS_IDLE: u32 = 252;
/// The kernel's default, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd counts in percent of a second.
const PERCENT: u64 = 10_000;
/// More processors than any kernel has.
const MAX_BITS: u32 = 1 << 16;

/// Limits for the v2 tree, or for v1 hierarchies. What systemd has no property
/// for is left to files.
///
/// # Errors
/// `InvalidArgument` for a value that makes no sense.
pub(super) fn of(
    resources: &LinuxResources,
    is_unified: bool,
    version: u32,
) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        add_memory(&mut all, memory, is_unified);
    }
    if let Some(cpu) = resources.cpu() {
        add_cpu(&mut all, cpu, is_unified, version)?;
    }
    let block_io = resources.block_io().as_ref();
    let weight = block_io.and_then(|io| io.weight()).filter(|weight| *weight != 0);
    if let (Some(weight), false) = (weight, is_unified) {
        all.push(("BlockIOWeight", Value::U64(weight.into())));
    }
    if let Some(pids) = resources.pids().as_ref().filter(|pids| pids.limit() != 0) {
        all.push(("TasksMax", Value::U64(limit(pids.limit()))));
    }
    if is_unified {
        for (file, value) in resources.unified().iter().flatten() {
            add_file(&mut all, file, value, version)?;
        }
    }
    Ok(all)
}

fn limit(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(INFINITY)
}

fn add_memory(all: &mut Vec<Property>, memory: &LinuxMemory, is_unified: bool) {
    let set = |value: Option<i64>| value.filter(|value| *value != 0);
    if let Some(value) = set(memory.limit()) {
        let name = if is_unified { "MemoryMax" } else { "MemoryLimit" };
        all.push((name, Value::U64(limit(value))));
    }
    if !is_unified {
        return;
    }
    if let Some(value) = set(memory.reservation()) {
        all.push(("MemoryLow", Value::U64(limit(value))));
    }
    // v1 limits both together, v2 each. What makes no sense is refused with the
    // files.
    let swap = match (set(memory.swap()), memory.limit()) {
        (Some(..0), _) => Some(INFINITY),
        (Some(both), Some(memory @ 0..)) => both.checked_sub(memory).map(limit),
        _ => None,
    };
    all.extend(swap.map(|swap| ("MemorySwapMax", Value::U64(swap))));
}

fn add_cpu(all: &mut Vec<Property>, cpu: &LinuxCpu, is_unified: bool, version: u32) -> Result<()> {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    match (shares, is_unified) {
        (_, true) if cpu.idle() == Some(1) && version >= HAS_IDLE => {
            all.push(("CPUWeight", Value::U64(0)));
        }
        (Some(shares), true) => all.push(("CPUWeight", Value::U64(weight_of_shares(shares)))),
        (Some(shares), false) => all.push(("CPUShares", Value::U64(shares))),
        (None, _) => {}
    }
    add_quota(all, cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), version);
    for (name, field, list) in
        [("AllowedCPUs", "cpus", cpu.cpus()), ("AllowedMemoryNodes", "mems", cpu.mems())]
    {
        let list = list.as_deref().filter(|list| !list.is_empty());
        if let (Some(list), true) = (list, version >= HAS_CPUSET) {
            let bits = bits(list)
                .ok_or_else(|| Error::invalid(format!("linux.resources.cpu.{field}: {list:?}")))?;
            all.push((name, Value::Bits(bits)));
        }
    }
    Ok(())
}

/// Both in microseconds; 0 is not set, and less is no limit.
fn add_quota(all: &mut Vec<Property>, quota: i64, period: u64, version: u32) {
    if period != 0 && version >= HAS_PERIOD {
        all.push(("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota == 0 && period == 0 {
        return;
    }
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let per_second = match u64::try_from(quota) {
        // Rounded up, so that a group below may have all of what was asked for.
        Ok(quota @ 1..) => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(exact).map_or(INFINITY, |exact| {
                exact.checked_next_multiple_of(PERCENT).unwrap_or(INFINITY)
            })
        }
        _ => INFINITY,
    };
    all.push(("CPUQuotaPerSecUSec", Value::U64(per_second)));
}

/// A file of the v2 group for which systemd has a property.
fn add_file(all: &mut Vec<Property>, file: &str, value: &str, version: u32) -> Result<()> {
    let value = value.trim();
    let wrong = || Error::invalid(format!("linux.resources.unified: {file}: {value:?}"));
    let number = |text: &str| match text {
        "max" => Ok(INFINITY),
        text => text.parse::<u64>().map_err(|_| wrong()),
    };
    let name = match file {
        "cpu.max" => {
            let (quota, period) = value.split_once(' ').unwrap_or((value, "0"));
            let quota = match number(quota)? {
                INFINITY => -1,
                quota => i64::try_from(quota).map_err(|_| wrong())?,
            };
            add_quota(all, quota, period.parse().map_err(|_| wrong())?, version);
            return Ok(());
        }
        "cpuset.cpus" | "cpuset.mems" if version >= HAS_CPUSET => {
            let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            all.push((name, Value::Bits(bits(value).ok_or_else(wrong)?)));
            return Ok(());
        }
        "cpu.weight" => "CPUWeight",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        // Only the file.
        _ => return Ok(()),
    };
    all.push((name, Value::U64(number(value)?)));
    Ok(())
}

/// A list as of `cpuset.cpus`, such as `0-2,7`, as bits.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MAX_BITS {
            return None;
        }
        for bit in first..=last {
            let at = bit as usize / 8;
            if bits.len() <= at {
                bits.resize(at + 1, 0u8);
            }
            bits[at] |= 1 << (bit % 8);
        }
    }
    (!bits.is_empty()).then_some(bits)
}

/// Which devices may be used. What systemd cannot say, a device that is not
/// allowed among others that are, is said to it as none in v1, and not at all in
/// v2, where it can take nothing away from our own program.
pub(super) fn devices(rules: &[devices::Rule], is_unified: bool) -> Vec<Property> {
    let policy = |name: &str| ("DevicePolicy", Value::Text(name.to_owned()));
    let list = |list| ("DeviceAllow", Value::Devices(list));
    match devices::allowed(rules) {
        devices::Allowed::All => vec![policy("auto"), list(Vec::new())],
        devices::Allowed::These(these) => vec![policy("strict"), list(these)],
        devices::Allowed::Other if is_unified => vec![policy("auto"), list(Vec::new())],
        devices::Allowed::Other => vec![policy("strict"), list(Vec::new())],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn properties(resources: Json, is_unified: bool, version: u32) -> Vec<Property> {
        of(&serde_json::from_value(resources).unwrap(), is_unified, version).unwrap()
    }

    #[test]
    fn limits_have_properties() {
        let asked = json!({
            "memory": {"limit": 1000, "reservation": 500, "swap": 1500},
            "cpu": {"shares": 1024, "quota": 12_345, "period": 50_000, "cpus": "0,2-3,9"},
            "blockIO": {"weight": 300},
            "pids": {"limit": 7},
        });
        let number = Value::U64;
        let mut v1 = vec![
            ("MemoryLimit", number(1000)),
            ("CPUShares", number(1024)),
            ("CPUQuotaPeriodUSec", number(50_000)),
            ("CPUQuotaPerSecUSec", number(250_000)),
            ("AllowedCPUs", Value::Bits(vec![0b1101, 0b10])),
            ("BlockIOWeight", number(300)),
            ("TasksMax", number(7)),
        ];
        assert_eq!(properties(asked.clone(), false, 252), v1);
        // An older one does not know them.
        v1.retain(|(name, _)| !["CPUQuotaPeriodUSec", "AllowedCPUs"].contains(name));
        assert_eq!(properties(asked.clone(), false, 241), v1);
        let v2 = [
            ("MemoryMax", number(1000)),
            ("MemoryLow", number(500)),
            ("MemorySwapMax", number(500)),
            ("CPUWeight", number(39)),
            ("CPUQuotaPeriodUSec", number(50_000)),
            ("CPUQuotaPerSecUSec", number(250_000)),
            ("AllowedCPUs", Value::Bits(vec![0b1101, 0b10])),
            ("TasksMax", number(7)),
        ];
        assert_eq!(properties(asked, true, 252), v2);
    }

    #[test]
    fn no_limit_is_one_too() {
        let asked = json!({
            "memory": {"limit": -1, "swap": -1},
            "cpu": {"quota": -1, "idle": 1},
            "pids": {"limit": -1},
        });
        let names = ["MemoryMax", "MemorySwapMax", "CPUWeight", "CPUQuotaPerSecUSec", "TasksMax"];
        let none = |name: &&'static str| {
            (*name, Value::U64(if *name == "CPUWeight" { 0 } else { INFINITY }))
        };
        let expected: Vec<_> = names.iter().map(none).collect();
        assert_eq!(properties(asked, true, 252), expected);
        assert_eq!(
            properties(json!({"memory": {"limit": 0}, "pids": {"limit": 0}}), true, 252),
            []
        );
    }

    #[test]
    fn files_of_v2_have_properties() {
        for (file, value, expected) in [
            (
                "cpu.max",
                "max 50000",
                vec![("CPUQuotaPeriodUSec", 50_000), ("CPUQuotaPerSecUSec", INFINITY)],
            ),
            ("cpu.max", "150000", vec![("CPUQuotaPerSecUSec", 1_500_000)]),
            ("pids.max", "max", vec![("TasksMax", INFINITY)]),
            ("memory.high", "4096", vec![("MemoryHigh", 4096)]),
            ("memory.oom.group", "1", vec![]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(name, value)| (name, Value::U64(value))).collect();
            assert_eq!(properties(json!({"unified": {file: value}}), true, 252), expected);
            assert_eq!(properties(json!({"unified": {file: value}}), false, 252), []);
        }
        let asked = serde_json::from_value(json!({"unified": {"pids.max": "few"}})).unwrap();
        let error = of(&asked, true, 252).unwrap_err();
        assert_eq!(error.kind(), shim_protocol::ErrorKind::InvalidArgument);
    }

    #[test]
    fn lists_that_are_none() {
        for list in ["", ",", "a", "3-1", "1-", "-1", "0-99999999"] {
            assert_eq!(bits(list), None, "{list:?}");
        }
    }
}
