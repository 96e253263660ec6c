//! Debian's systemd as the first process of a small machine inside this one: in
//! namespaces of its own, in a control group of the test, with nothing to start
//! but a bus.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Sandbox, eventually, proc, programs::STRICT};

const PROGRAM: &str = "/lib/systemd/systemd";
const BUS: &str = "/usr/bin/dbus-daemon";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The first process. The machine's root is read-only, but for the sandbox.
const INNER: &str = r#"
set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$FOLDER" "$FOLDER"
mkdir /run/units
cp "$FOLDER"/units/* /run/units
if [ "$UNIFIED" ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    # Mounted anew, they begin at the groups of this machine.
    mounts=$(while read -r _ point kind options _; do
        case $point,$kind in /sys/fs/cgroup/*,cgroup*) echo "$point $kind $options" ;; esac
    done </proc/mounts)
    umount -R /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    echo "$mounts" | while read -r point kind options; do
        mkdir "$point"
        options=$(echo "$options" | sed 's/,relatime//')
        case $kind,$options in
            *name=*) options=none,$options ;;
            cgroup2,*) options=rw ;;
        esac
        mount -t "$kind" -o "$options" "$kind" "$point"
    done
fi
mount -o remount,bind,ro /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/run/systemd/system.control:/run/systemd/transient:/run/units \
    SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_COLOR=0 /lib/systemd/systemd --system \
    --unit=test.target --show-status=no
"#;

/// Which control groups the small machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// Those of this machine.
    All,
    /// The tree of v2 alone.
    Unified,
}

/// A small machine with systemd. It ends when this is dropped.
pub struct Systemd {
    child: Child,
    /// systemd, as this machine sees it.
    init: u32,
    groups: Vec<PathBuf>,
}

impl Systemd {
    /// Why it cannot be had here, if it cannot.
    ///
    /// # Panics
    /// It is not installed, and the run is a strict one.
    pub fn obstacle() -> Option<String> {
        let absent = [PROGRAM, BUS].into_iter().find(|path| !Path::new(path).exists())?;
        assert!(std::env::var_os(STRICT).is_none(), "{absent} is not installed");
        Some(format!("{absent} is not installed"))
    }

    /// Boots, and waits until it is up. Without a bus there is only systemd's
    /// own socket.
    ///
    /// # Errors
    /// With what systemd has said.
    pub async fn boot(sandbox: &Sandbox, hierarchies: Hierarchies, has_bus: bool) -> Result<Self> {
        write_units(&sandbox.path("units"), has_bus)?;
        let log = sandbox.path("systemd.log");
        let inner = sandbox.path("inner");
        fs::write(&inner, INNER)?;
        let groups = make_groups(&sandbox.namespace().replace("ct-", "ct-systemd-"))?;
        let list: Vec<_> = groups.iter().map(|group| group.join("cgroup.procs")).collect();
        let mut machine = Self {
            child: Command::new("sh")
                .args([
                    "-ec",
                    "for group; do echo 0 >$group; done; exec unshare --mount --pid \
                       --cgroup --uts --ipc --net --fork --kill-child --propagation private \
                       sh $FOLDER/inner",
                ])
                .arg("sh")
                .args(&list)
                .env("FOLDER", sandbox.folder())
                .env("UNIFIED", if hierarchies == Hierarchies::Unified { "1" } else { "" })
                .stdin(Stdio::null())
                .stdout(fs::File::create(&log)?)
                .stderr(fs::File::options().append(true).open(&log)?)
                .spawn()
                .context("unshare")?,
            init: 0,
            groups,
        };
        let up = eventually(async || {
            ensure!(machine.child.try_wait()?.is_none(), "systemd has ended");
            if machine.init == 0 {
                let children = format!("/proc/{0}/task/{0}/children", machine.child.id());
                machine.init = fs::read_to_string(children)?.trim().parse().context("no init")?;
            }
            let ready = format!("/proc/{}/root/run/ready", machine.init);
            fs::read(ready).map(drop).context("systemd is not up")
        });
        up.await.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(machine)
    }

    /// Runs a program in the small machine.
    ///
    /// # Errors
    /// No `nsenter`.
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        let target = self.init.to_string();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &target, "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net"])
            .args(["--wd=/", "--"])
            .args(words)
            .stdin(Stdio::null());
        command.output().context("nsenter")
    }

    /// Runs a program that has to succeed; gives what it prints.
    ///
    /// # Errors
    /// With what it says on standard error.
    pub fn out<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        let words: Vec<_> = words.into_iter().collect();
        let output = self.run(&words)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {text}{error}", names.join(" "));
        Ok(text)
    }

    /// The groups of the small machine, as this one sees them.
    pub fn groups(&self) -> &[PathBuf] {
        &self.groups
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let init = if self.init == 0 { self.child.id() } else { self.init };
        // All others in its pid namespace go with it.
        let _ = kill(Pid::from_raw(init as i32), Signal::SIGKILL);
        let _ = self.child.wait();
        for group in &self.groups {
            remove(group);
        }
    }
}

fn write_units(folder: &Path, has_bus: bool) -> Result<()> {
    fs::create_dir(folder)?;
    let mut wants = "ready.service".to_owned();
    let mut after = "";
    if has_bus {
        wants = format!("dbus.service {wants}");
        after = "After=dbus.service\n";
        fs::write(
            folder.join("dbus.socket"),
            "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
        )?;
        fs::write(
            folder.join("dbus.service"),
            format!(
                "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\n\
                 NotifyAccess=main\nExecStart={BUS} --system --address=systemd: --nofork \
                 --nopidfile --systemd-activation\n"
            ),
        )?;
    }
    fs::write(
        folder.join("test.target"),
        format!("[Unit]\nDefaultDependencies=no\nWants={wants}\n"),
    )?;
    let ready = format!(
        "[Unit]\nDefaultDependencies=no\n{after}[Service]\nType=oneshot\n\
         ExecStart=/bin/sh -c 'echo >/run/ready'\n"
    );
    fs::write(folder.join("ready.service"), ready)?;
    Ok(())
}

/// A group in each hierarchy.
fn make_groups(name: &str) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for root in proc::mounts_below(std::process::id(), Path::new(CGROUPS)) {
        let group = root.join(name);
        if !root.join("cgroup.procs").exists() || made.contains(&group) {
            continue;
        }
        fs::create_dir(&group).with_context(|| format!("make {}", group.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(root.join(file))
                && !value.trim().is_empty()
            {
                fs::write(group.join(file), value)?;
            }
        }
        made.push(group);
    }
    Ok(made)
}

fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(group) {
        eprintln!("cannot remove {}: {error}", group.display());
    }
}
