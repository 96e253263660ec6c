//! When a container's processes run, and where their memory is: what they
//! inherit from the first one.

use std::io;

use libcontainer::{
    process::memory_policy::setup_memory_policy,
    syscall::{Syscall, linux::LinuxSyscall},
};
use nix::libc;
use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};
use shim_protocol::{Context, Error, ErrorKind, Result};

use crate::sys::process;

/// Sets all that is asked for, for the calling process.
///
/// # Errors
/// `InvalidArgument` for what the kernel refuses.
pub(super) fn set(process: &Process, linux: Option<&Linux>) -> Result<()> {
    if let Some(priority) = process.io_priority() {
        // include/uapi/linux/ioprio.h
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        LinuxSyscall
            .set_io_priority(class, priority.priority())
            .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "set process.ioPriority", e))?;
    }
    if let Some(scheduler) = process.scheduler() {
        schedule(scheduler).context_as(ErrorKind::InvalidArgument, "set", "process.scheduler")?;
    }
    let Some(linux) = linux.filter(|linux| linux.memory_policy().is_some()) else { return Ok(()) };
    setup_memory_policy(linux.memory_policy(), &LinuxSyscall)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "set linux.memoryPolicy", e))
}

fn schedule(scheduler: &Scheduler) -> io::Result<()> {
    // include/uapi/linux/sched.h
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
    };
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    });
    process::schedule(&process::Schedule {
        policy: policy as u32,
        flags: flags.fold(0, |all, flag| all | flag),
        nice: scheduler.nice().unwrap_or_default(),
        priority: scheduler.priority().unwrap_or_default() as u32,
        runtime_ns: scheduler.runtime().unwrap_or_default(),
        deadline_ns: scheduler.deadline().unwrap_or_default(),
        period_ns: scheduler.period().unwrap_or_default(),
    })
}
