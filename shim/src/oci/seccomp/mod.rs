//! Filters of system calls: a profile becomes a program of the kernel's classic
//! BPF (OCI runtime specification, `config-linux.md`, "Seccomp"; seccomp(2)).
//!
//! Rules are tried in the order of the profile, and the first that matches
//! decides. Names that no kernel header has are skipped, as the specification
//! has it: a profile is written for many kernels. Calls newer than any that the
//! profile knows give ENOSYS where the profile would give an error, so that
//! programs use the older ones that it does know.

use std::{fmt, io, os::fd::OwnedFd};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall,
};
use shim_protocol::{Error, Result};

use crate::sys::bpf;

mod numbers;
mod program;
#[cfg(test)]
mod tests;

use numbers::Architecture;
use program::{Rule, Table};

/// What the kernel does with a call (`include/uapi/linux/seccomp.h`).
const KILL_THREAD: u32 = 0x0000_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// The kernel's highest error number (`include/linux/err.h`).
const MAX_ERRNO: u32 = 4095;
const ENOSYS: u32 = ERRNO | nix::libc::ENOSYS as u32;
const EPERM: u32 = nix::libc::EPERM as u32;
/// The longest program (`include/uapi/linux/bpf_common.h`, BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// How the listener of a filter is handed over.
const HANDS_OVER: &str = "sendmsg";

/// A program, ready to be installed.
#[derive(Clone)]
pub(super) struct Filter {
    program: Vec<nix::libc::sock_filter>,
    flags: u32,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instructions, flags {:#x}", self.program.len(), self.flags)
    }
}

impl Filter {
    /// Translates a profile.
    ///
    /// # Errors
    /// `InvalidArgument` for what the kernel would refuse.
    pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Self> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        if default == NOTIFY {
            return Err(Error::invalid("linux.seccomp.defaultAction: nobody could answer for it"));
        }
        refuse_deadlock(profile)?;
        let mut tables: Vec<Table> = Vec::new();
        for architecture in architectures(profile) {
            let mut table = Table { architecture, default, rules: Vec::new() };
            for call in profile.syscalls().iter().flatten() {
                add(&mut table, call)?;
            }
            tables.push(table);
        }
        let program = program::assemble(&tables);
        if program.len() > MAX_INSTRUCTIONS {
            let length = program.len();
            return Err(Error::invalid(format!(
                "linux.seccomp: {length} instructions are too many"
            )));
        }
        let mut flags = 0;
        for flag in profile.flags().iter().flatten() {
            flags |= match flag {
                // There is one thread.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => nix::libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                    nix::libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    nix::libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
                }
            } as u32;
        }
        let mut filter = Self { program, flags };
        if filter.notifies(profile) {
            filter.flags |= nix::libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
        } else {
            // The kernel takes it only with a listener.
            filter.flags &= !(nix::libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32);
        }
        Ok(filter)
    }

    fn notifies(&self, profile: &LinuxSeccomp) -> bool {
        let mut calls = profile.syscalls().iter().flatten();
        calls.any(|call| call.action() == LinuxSeccompAction::ScmpActNotify)
    }

    /// Does somebody have to answer for it?
    pub(super) fn has_listener(&self) -> bool {
        self.flags & nix::libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0
    }

    /// Filters this process from now on; gives the listener, if there is one.
    ///
    /// # Errors
    /// Those of seccomp(2).
    pub(super) fn install(&self) -> io::Result<Option<OwnedFd>> {
        bpf::filter(&self.program, self.flags)
    }
}

/// The listener gets to whoever answers by this call, which so cannot wait for an
/// answer itself.
fn refuse_deadlock(profile: &LinuxSeccomp) -> Result<()> {
    let waits = profile.syscalls().iter().flatten().any(|call| {
        call.action() == LinuxSeccompAction::ScmpActNotify
            && call.names().iter().any(|name| name == HANDS_OVER)
    });
    match waits {
        true => Err(Error::invalid(format!("linux.seccomp: SCMP_ACT_NOTIFY for {HANDS_OVER}"))),
        false => Ok(()),
    }
}

/// The machine's own, and those that the profile names besides.
fn architectures(profile: &LinuxSeccomp) -> Vec<Architecture> {
    let asked = profile.architectures().iter().flatten();
    let others = asked.filter_map(|arch| match arch {
        Arch::ScmpArchX86 => Some(Architecture::X86),
        Arch::ScmpArchX86_64 => Some(Architecture::X86_64),
        Arch::ScmpArchArm => Some(Architecture::Arm),
        Arch::ScmpArchAarch64 => Some(Architecture::Aarch64),
        // What this machine cannot run is forbidden as all that is not named.
        _ => None,
    });
    let mut all = vec![Architecture::NATIVE];
    for architecture in others {
        if !all.contains(&architecture) {
            all.push(architecture);
        }
    }
    all
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    let number = errno.unwrap_or(EPERM);
    if number > MAX_ERRNO {
        return Err(Error::invalid(format!("linux.seccomp: errnoRet {number}")));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | number,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActTrace => TRACE | number,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    })
}

fn add(table: &mut Table, call: &LinuxSyscall) -> Result<()> {
    let action = action(call.action(), call.errno_ret())?;
    let args = call.args().as_deref().unwrap_or_default();
    if args.iter().any(|arg| arg.index() > 5) {
        return Err(Error::invalid(format!("linux.seccomp: {:?} have 6 arguments", call.names())));
    }
    // Several conditions on one argument are meant as alternatives, as in runc.
    let mut seen = [false; 6];
    let repeated = args.iter().any(|arg| std::mem::replace(&mut seen[arg.index()], true));
    let alternatives: Vec<Vec<_>> = match repeated {
        true => args.iter().map(|arg| vec![*arg]).collect(),
        false => vec![args.to_vec()],
    };
    for name in call.names() {
        let Some(number) = table.architecture.number(name) else { continue };
        for conditions in &alternatives {
            let rule = Rule { number, conditions: conditions.clone(), action };
            table.rules.push(rule);
        }
    }
    Ok(())
}
