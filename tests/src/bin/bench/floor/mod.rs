//! What the kernel alone takes for the life of a container: namespaces, mounts,
//! a new root, the program, its end; and the same with cgroups and devices. The
//! same as in the lifecycle's containers but for capabilities and the masking of
//! paths: those are not done, so no runtime can quite get there.

mod groups;
mod sys;

use std::{ffi::CString, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use ::tests::Sandbox;
use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    mount::MsFlags,
    sys::wait::{WaitStatus, waitpid},
};

use crate::{
    Bench, Section,
    cycles::{Turn, side_by_side},
    report::{Figure, PER_SECOND},
    targets::Stop,
};
use groups::Groups;
use sys::{Plan, Step};

/// Cycles at each concurrency.
const CYCLES: usize = 500;
/// How many at once.
const CONCURRENCIES: [usize; 2] = [1, 10];
/// How tables call it, without cgroups and devices, and with them.
const KERNEL: [&str; 2] = ["kernel alone", "kernel with cgroups"];
/// Devices that each container has, as runc makes them, with their numbers.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Links that each container has.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Measures the kernel.
///
/// # Errors
/// It refuses.
pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let groups = Arc::new(Groups::new(sandbox.cgroup())?);
    let rootfs: Arc<Path> = sandbox.rootfs().into();
    let count = bench.count(CYCLES);
    let Bench { report, field, .. } = bench;
    field
        .until_told(None, async {
            for (name, with) in KERNEL.into_iter().zip([None, Some(&groups)]) {
                live(&rootfs, with.map(Arc::as_ref), 0)?;
                for concurrency in CONCURRENCIES {
                    let turn = lives(&rootfs, with, concurrency, count).await?;
                    let figure = Figure::of(Section::Floor, name, "cycle").concurrency(concurrency);
                    report.add(figure.clone(), turn.times.iter().copied());
                    report.add(figure.unit(PER_SECOND), [turn.rate()]);
                }
            }
            Ok(())
        })
        .await
}

async fn lives(
    rootfs: &Arc<Path>,
    groups: Option<&Arc<Groups>>,
    concurrency: usize,
    count: usize,
) -> Result<Turn<()>> {
    let (rootfs, groups) = (rootfs.clone(), groups.cloned());
    // What is given up here ends by itself.
    side_by_side(&Stop::default(), concurrency, 0, count, move |number| {
        let (rootfs, groups) = (rootfs.clone(), groups.clone());
        async move {
            tokio::task::spawn_blocking(move || live(&rootfs, groups.as_deref(), number)).await?
        }
    })
    .await
}

/// One life, in cgroups of its own and with devices if there are `groups`.
fn live(rootfs: &Path, groups: Option<&Groups>, number: usize) -> Result<()> {
    let mut plan = plan(rootfs)?;
    let Some(groups) = groups else { return run(&plan) };
    plan.steps.extend(devices(rootfs)?);
    let made = groups.make(number)?;
    (plan.group, plan.doors) = made.open()?;
    run(&plan)?;
    made.remove()
}

fn devices(rootfs: &Path) -> Result<Vec<Step>> {
    let inside = |name: &str| CString::new(rootfs.join("dev").join(name).as_os_str().as_bytes());
    let mut steps = Vec::new();
    for (name, major, minor) in DEVICES {
        let number = nix::libc::makedev(major, minor);
        steps.push(Step::Device { path: inside(name)?, number });
    }
    for (name, target) in LINKS {
        steps.push(Step::Link { path: inside(name)?, target: CString::new(target)? });
    }
    Ok(steps)
}

/// One life. When the process has ended, its mounts go with their namespace.
fn run(plan: &Plan) -> Result<()> {
    let pid = sys::start(plan).context("clone")?;
    let status = loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            status => break status?,
        }
    };
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, code) => bail!("{} failed", plan.name(code)),
        status => bail!("{status:?}"),
    }
}

/// `true` of a root filesystem, in the mounts that [`tests::Spec`] has.
fn plan(rootfs: &Path) -> Result<Plan> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let devices = MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME;
    let inside = |path: &str| CString::new(rootfs.join(path).as_os_str().as_bytes());
    let folder = |path: &str| anyhow::Ok(Step::Folder(inside(path)?));
    let mount = |target: &str, kind: &str, flags: MsFlags, data: &str| {
        let (kind, data) = (CString::new(kind)?, CString::new(data)?);
        anyhow::Ok(Step::Mount { target: inside(target)?, kind, flags: flags.bits(), data })
    };
    let steps = vec![
        mount("proc", "proc", quiet, "")?,
        mount("dev", "tmpfs", devices, "mode=755,size=65536k")?,
        folder("dev/pts")?,
        mount("dev/pts", "devpts", terminals, "newinstance,ptmxmode=0666,mode=0620")?,
        folder("dev/shm")?,
        mount("dev/shm", "tmpfs", quiet, "size=65536k")?,
        mount("sys", "sysfs", quiet | MsFlags::MS_RDONLY, "")?,
    ];
    let rootfs = CString::new(rootfs.as_os_str().as_bytes())?;
    let (group, doors) = (None, Vec::new());
    Ok(Plan { rootfs, steps, program: c"/bin/true".into(), group, doors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_named() {
        if !nix::unistd::geteuid().is_root() {
            return ::tests::skip("what_fails_is_named", "needs root");
        }
        let folder = tempfile::tempdir().unwrap();
        let fails = |plan: &Plan| format!("{:#}", run(plan).unwrap_err());
        let mut plan = plan(folder.path()).unwrap();
        let error = fails(&plan);
        assert!(error.contains("mount") && error.ends_with("/proc failed"), "{error}");
        plan.steps.clear();
        assert_eq!(fails(&plan), "the start of /bin/true failed");
        plan.rootfs = c"/no/such/folder".into();
        assert_eq!(fails(&plan), "mount /no/such/folder failed");
    }
}
