//! What clients are told of the machine.

use std::io;

use nix::unistd::{SysconfVar, sysconf};
use shim_protocol::{Context, Error, Result};

/// The machine that the daemon runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name of this instance.
    pub id: String,
    /// Number of processors.
    pub cpus: u32,
    /// Size of the memory, in bytes.
    pub memory: u64,
}

pub(super) fn read(id: String) -> Result<Machine> {
    let ask = |variable| -> Result<u64> {
        let value = sysconf(variable).map_err(io::Error::from);
        let value = value.context("ask", format_args!("{variable:?}"))?;
        let value = value.and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| Error::internal(format!("the system does not say {variable:?}")))
    };
    Ok(Machine {
        id,
        cpus: u32::try_from(ask(SysconfVar::_NPROCESSORS_ONLN)?).unwrap_or(u32::MAX),
        memory: ask(SysconfVar::_PHYS_PAGES)?.saturating_mul(ask(SysconfVar::PAGE_SIZE)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let machine = read("name".into()).unwrap();
        assert_eq!(machine.id, "name");
        assert!(machine.cpus > 0 && machine.memory > 1 << 20, "{machine:?}");
    }
}
