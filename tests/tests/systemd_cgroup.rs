//! Containers whose control groups systemd makes: by the runtime inside our
//! shim, and by runc beside it, under a systemd that is booted for the test.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Hierarchies, Origin, Sandbox, Spec, Systemd, program, run_plain, skip};

/// What is compared. What is missing in a version is so with both.
const PROPERTIES: &str = "ActiveState,AllowedCPUs,CPUAccounting,CPUQuotaPerSecUSec,\
    CPUQuotaPeriodUSec,CPUShares,CPUWeight,ControlGroup,DefaultDependencies,Delegate,\
    DevicePolicy,IOAccounting,BlockIOAccounting,LoadState,MemoryAccounting,MemoryLimit,MemoryLow,\
    MemoryMax,MemorySwapMax,Slice,SubState,TasksAccounting,TasksMax,\
    TimeoutStopUSec,CollectMode,SendSIGHUP,After";

fn with_systemd(
    hierarchies: Hierarchies,
    has_bus: bool,
    test: impl AsyncFnOnce(&Bench) -> Result<()>,
) {
    if let Some(reason) = Systemd::obstacle() {
        let thread = std::thread::current();
        return skip(thread.name().unwrap_or("a test"), &reason);
    }
    run_plain(&[Origin::Ours], async || {
        let sandbox = Sandbox::new()?;
        let systemd = Systemd::boot(&sandbox, hierarchies, has_bus).await?;
        let is_unified = hierarchies == Hierarchies::Unified;
        // Without a bus runc sometimes talks to systemd too early, and waits in vain.
        let runtimes = if has_bus { &["runc", "ours"][..] } else { &["ours"] };
        test(&Bench { systemd, sandbox, is_unified, runtimes }).await
    });
}

/// Both runtimes, and where they run.
struct Bench {
    systemd: Systemd,
    sandbox: Sandbox,
    is_unified: bool,
    /// What is compared.
    runtimes: &'static [&'static str],
}

impl Bench {
    fn bundle(&self, id: &str, path: &str, script: &str, resources: &Value) -> Result<String> {
        let folder = self.sandbox.path(&format!("bundle-{id}"));
        fs::create_dir_all(&folder)?;
        let rootfs = self.sandbox.rootfs().display().to_string();
        let mut spec = Spec::shell(script, &rootfs, path, "").json;
        for (key, value) in resources.as_object().context("resources")? {
            spec["linux"]["resources"][key] = value.clone();
        }
        let nodes = json!(["CAP_MKNOD"]);
        spec["process"]["capabilities"] =
            json!({"bounding": nodes, "effective": nodes, "permitted": nodes});
        spec["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.SendSIGHUP": "true",
            "org.systemd.property.After": "['a.target', 'b.target']",
        });
        fs::write(folder.join("config.json"), spec.to_string())?;
        Ok(folder.display().to_string())
    }

    /// The words that run a command of a runtime.
    fn words(&self, runtime: &str, words: &[&str]) -> Vec<String> {
        let ours = program(Origin::Ours, "containerd-shim-runc-v2").display().to_string();
        let mut line = match runtime {
            "runc" => vec!["/usr/sbin/runc".to_owned()],
            _ => vec![ours, "oci".to_owned()],
        };
        let root = format!("/run/{runtime}");
        line.extend(["--systemd-cgroup", "--root", &root].map(str::to_owned));
        line.extend(words.iter().map(|word| (*word).to_owned()));
        line
    }

    fn call(&self, runtime: &str, words: &[&str]) -> Result<String> {
        self.systemd.out(self.words(runtime, words))
    }

    /// A call that has to fail; gives what it says.
    fn refused(&self, runtime: &str, words: &[&str]) -> Result<String> {
        let output = self.systemd.run(self.words(runtime, words))?;
        ensure!(!output.status.success(), "{words:?} has succeeded");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Its streams go nowhere: who reads them would wait for the container.
    fn create(&self, runtime: &str, id: &str, bundle: &str) -> Result<()> {
        let script = "exec \"$@\" </dev/null >/dev/null 2>/tmp/create-error";
        let script = script.replace("/tmp", &self.sandbox.folder().display().to_string());
        let mut line = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
        line.extend(self.words(runtime, &["create", "--bundle", bundle, id]));
        let created = self.systemd.out(line);
        created.with_context(|| {
            fs::read_to_string(self.sandbox.path("create-error")).unwrap_or_default()
        })?;
        Ok(())
    }

    fn state(&self, runtime: &str, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(runtime, &["state", id])?)?)
    }

    fn properties(&self, unit: &str) -> Result<BTreeMap<String, String>> {
        let text = self.systemd.out(["systemctl", "show", "--property", PROPERTIES, "--", unit])?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let sorted = |value: &str| {
            let mut words: Vec<_> = value.split(' ').collect();
            // Of units they are in no order.
            words.sort_unstable();
            words.join(" ")
        };
        Ok(pairs.map(|(name, value)| (name.to_owned(), sorted(value))).collect())
    }

    fn load_state(&self, unit: &str) -> Result<String> {
        Ok(self.properties(unit)?.remove("LoadState").unwrap_or_default())
    }

    /// Where the first process is, by controller.
    fn groups(&self, runtime: &str, id: &str) -> Result<BTreeMap<String, String>> {
        let pid = self.state(runtime, id)?["pid"].to_string();
        let text = self.systemd.out(["cat", &format!("/proc/{pid}/cgroup")])?;
        let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let mut groups: BTreeMap<_, _> =
            lines.map(|(name, path)| (name.to_owned(), path.to_owned())).collect();
        let all = groups.get("").cloned();
        if let Some(devices) =
            groups.get_mut("devices").filter(|_| runtime == "runc" && !self.is_unified)
        {
            // There it leaves its first process to the slice, at times.
            *devices = all.unwrap_or_default();
        }
        Ok(groups)
    }

    /// Folders of groups of this name, in any hierarchy.
    fn folders(&self, name: &str) -> Vec<String> {
        fn search(folder: &Path, name: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name() == name {
                        found.push(entry.path().display().to_string());
                    }
                    search(&entry.path(), name, found);
                }
            }
        }
        let mut found = Vec::new();
        self.systemd.groups().iter().for_each(|group| search(group, name, &mut found));
        found
    }

    /// A file of the container's group in the hierarchy of a controller, if the
    /// machine has it.
    fn limit(&self, id: &str, controller: &str, file: &str) -> Result<Option<String>> {
        let groups = self.groups("ours", id)?;
        let of = |name: &str| groups.get(name).map(|group| (name.to_owned(), group.clone()));
        let folder = match (of(controller), of("")) {
            (Some((name, group)), _) => format!("/sys/fs/cgroup/{name}{group}"),
            (None, Some((_, group))) => format!("/sys/fs/cgroup{group}"),
            (None, None) => return Ok(None),
        };
        let path = format!("{folder}/{file}");
        match self.systemd.run(["cat", &path])? {
            output if output.status.success() => {
                Ok(Some(String::from_utf8(output.stdout)?.trim().to_owned()))
            }
            _ => Ok(None),
        }
    }

    fn end(&self, runtime: &str, id: &str, unit: &str) -> Result<()> {
        self.call(runtime, &["delete", "--force", id])?;
        assert_eq!(self.load_state(unit)?, "not-found", "{unit} of {runtime}");
        assert_eq!(self.folders(unit), Vec::<String>::new(), "groups of {unit}");
        Ok(())
    }
}

/// Limits that all kinds of machines can keep, and those that need controllers.
fn limits(bench: &Bench) -> Value {
    let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
    let none = json!({"allow": false, "access": "rwm"});
    let mut limits = json!({"devices": [none, fuse]});
    // What is on the v1 side of this machine is not on the other.
    if !bench.is_unified {
        limits["memory"] = json!({"limit": 64 << 20});
        limits["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"});
        limits["pids"] = json!({"limit": 50});
    }
    limits
}

/// The life of a container is the same with both: its unit, the unit's
/// properties, its groups, and what is left.
async fn as_with_runc(bench: &Bench) -> Result<()> {
    let limits = limits(bench);
    let mut seen = Vec::new();
    for runtime in bench.runtimes {
        let (id, unit) = (format!("life-{runtime}"), "p-life.scope");
        let bundle = bench.bundle(&id, "a-b.slice:p:life", "sleep 1000", &limits)?;
        bench.create(runtime, &id, &bundle)?;
        assert_eq!(bench.state(runtime, &id)?["status"], "created");
        let mut before = bench.properties(unit)?;
        assert_eq!(before["ActiveState"], "active");
        bench.call(runtime, &["start", &id])?;
        let after = bench.properties(unit)?;
        assert_eq!(before, after);
        assert_eq!(after["ControlGroup"], "/a.slice/a-b.slice/p-life.scope");
        assert_eq!(after["TimeoutStopUSec"], "7s");
        let groups = bench.groups(runtime, &id)?;
        let exec = bench.call(runtime, &["exec", &id, "cat", "/proc/self/cgroup"])?;
        let mut exec: Vec<_> = exec.lines().map(str::to_owned).collect();
        exec.sort();
        before.insert(
            "processes".into(),
            bench.call(runtime, &["ps", "-f", "json", &id])?.matches(',').count().to_string(),
        );
        bench.call(runtime, &["kill", &id, "KILL"])?;
        bench.end(runtime, &id, unit)?;
        seen.push((before, groups, exec));
    }
    assert_eq!(seen.first(), seen.last());
    Ok(())
}

/// Without a path, and with a slice at the root.
async fn default_names(bench: &Bench) -> Result<()> {
    for (path, unit) in [("", "runc-named.scope"), ("-.slice::named", "-named.scope")] {
        let mut seen = Vec::new();
        for runtime in bench.runtimes {
            let bundle = bench.bundle("named", path, "sleep 1000", &json!({}))?;
            bench.create(runtime, "named", &bundle)?;
            seen.push((bench.properties(unit)?, bench.groups(runtime, "named")?));
            assert_eq!(seen[0].0["ActiveState"], "active", "{unit}");
            bench.end(runtime, "named", unit)?;
        }
        assert_eq!(seen.first(), seen.last());
    }
    Ok(())
}

/// Limits hold in the groups, also after systemd has read its units again, and
/// change by `update`.
async fn limits_hold(bench: &Bench) -> Result<()> {
    let script = "trap 'exit 0' TERM; while true; do sleep 1000 & wait $!; done";
    let bundle = bench.bundle("limited", "a.slice:p:limited", script, &limits(bench))?;
    bench.create("ours", "limited", &bundle)?;
    bench.call("ours", &["start", "limited"])?;
    // `mknod` is allowed, so the device is there; opening it is not.
    let open = |major: u32, minor: u32| {
        let script = format!(
            "rm -f /dev/node; mknod /dev/node c {major} {minor} && (exec 3</dev/node) 2>&1"
        );
        let words = bench.words("ours", &["exec", "limited", "sh", "-c", &script]);
        let output = bench.systemd.run(words)?;
        match &*String::from_utf8_lossy(&output.stdout) {
            "" => anyhow::Ok(true),
            error if error.contains("not permitted") => Ok(false),
            error => anyhow::bail!("{error}{}", String::from_utf8_lossy(&output.stderr)),
        }
    };
    let check = |memory: &str, quota: &str, pids: &str| {
        let list = bench.limit("limited", "devices", "devices.list")?;
        ensure!(!open(4, 1)?, "a device is open to the container, with {list:?}");
        ensure!(open(1, 5)?, "/dev/zero is not");
        for (controller, file, value) in [
            ("memory", "memory.limit_in_bytes", memory),
            ("cpu", "cpu.cfs_quota_us", quota),
            ("pids", "pids.max", pids),
            ("cpuset", "cpuset.cpus", "0"),
        ] {
            let found = bench.limit("limited", controller, file)?;
            ensure!(bench.is_unified || found.as_deref() == Some(value), "{file}: {found:?}");
        }
        Ok(())
    };
    check("67108864", "50000", "50")?;
    let groups = bench.groups("ours", "limited")?;
    bench.systemd.out(["systemctl", "daemon-reload"])?;
    check("67108864", "50000", "50")?;
    assert_eq!(bench.groups("ours", "limited")?, groups);
    if !bench.is_unified {
        let resources = bench.sandbox.path("resources.json");
        let asked = json!({
            "memory": {"limit": 32 << 20},
            "cpu": {"quota": 20_000, "period": 100_000},
            "pids": {"limit": 40},
        });
        fs::write(&resources, asked.to_string())?;
        bench.call(
            "ours",
            &["update", "--resources", &resources.display().to_string(), "limited"],
        )?;
        check("33554432", "20000", "40")?;
        bench.systemd.out(["systemctl", "daemon-reload"])?;
        check("33554432", "20000", "40")?;
        assert_eq!(bench.properties("p-limited.scope")?["TasksMax"], "40");
        assert_eq!(bench.groups("ours", "limited")?, groups);
    }
    bench.call("ours", &["pause", "limited"])?;
    assert_eq!(bench.state("ours", "limited")?["status"], "paused");
    bench.end("ours", "limited", "p-limited.scope")
}

/// A program that opens a device all the time does not notice that limits change;
/// one that is paused stays so.
async fn devices_stay(bench: &Bench) -> Result<()> {
    if bench.is_unified {
        // No controllers are there to be had.
        return Ok(());
    }
    let script = "while true </dev/zero || echo lost >>/lost; do :; done";
    let bundle = bench.bundle("busy", "a.slice:p:busy", script, &json!({}))?;
    bench.create("ours", "busy", &bundle)?;
    bench.call("ours", &["start", "busy"])?;
    let resources = bench.sandbox.path("resources.json");
    let update = |limit: u32| {
        fs::write(&resources, json!({"pids": {"limit": limit}}).to_string())?;
        let resources = resources.display().to_string();
        bench.call("ours", &["update", "--resources", &resources, "busy"])
    };
    for limit in 100..120 {
        update(limit)?;
    }
    let lost = fs::read_to_string(bench.sandbox.rootfs().join("lost")).unwrap_or_default();
    ensure!(lost.is_empty(), "{} times", lost.lines().count());
    assert_eq!(bench.state("ours", "busy")?["status"], "running");
    bench.call("ours", &["pause", "busy"])?;
    update(200)?;
    assert_eq!(bench.state("ours", "busy")?["status"], "paused");
    assert_eq!(bench.properties("p-busy.scope")?["TasksMax"], "200");
    bench.end("ours", "busy", "p-busy.scope")
}

/// A limit of one process is for the container alone.
async fn one_process(bench: &Bench) -> Result<()> {
    let bundle =
        bench.bundle("one", "a.slice:p:one", "exec sleep 1000", &json!({"pids": {"limit": 1}}))?;
    if bench.is_unified {
        return Ok(());
    }
    bench.create("ours", "one", &bundle)?;
    bench.call("ours", &["start", "one"])?;
    assert_eq!(bench.limit("one", "pids", "pids.max")?.as_deref(), Some("1"));
    assert_eq!(bench.properties("p-one.scope")?["TasksMax"], "1");
    bench.end("ours", "one", "p-one.scope")
}

/// What fails leaves no unit; what is somebody else's stays.
async fn failures(bench: &Bench) -> Result<()> {
    let bad = bench.bundle("bad", "a.slice:p:bad", "true", &json!({}))?;
    let config = Path::new(&bad).join("config.json");
    let text = fs::read_to_string(&config)?.replace("/bin/sh", "/no/such");
    fs::write(&config, text)?;
    let error = bench.refused("ours", &["create", "--bundle", &bad, "bad"])?;
    ensure!(error.contains("/no/such"), "{error}");
    assert_eq!(bench.load_state("p-bad.scope")?, "not-found");
    assert_eq!(bench.folders("p-bad.scope"), Vec::<String>::new());

    let first = bench.bundle("first", "a.slice:p:taken", "sleep 1000", &json!({}))?;
    bench.create("ours", "first", &first)?;
    bench.call("ours", &["start", "first"])?;
    let error = bench.refused("ours", &["create", "--bundle", &first, "second"])?;
    ensure!(error.contains("p-taken.scope"), "{error}");
    assert_eq!(bench.state("ours", "first")?["status"], "running");
    assert_eq!(bench.properties("p-taken.scope")?["ActiveState"], "active");
    bench.refused("ours", &["state", "second"])?;

    for path in ["/a/b", "a.slice:p", "a:b:c"] {
        let wrong = bench.bundle("wrong", path, "true", &json!({}))?;
        let error = bench.refused("ours", &["create", "--bundle", &wrong, "wrong"])?;
        ensure!(error.contains("linux.cgroupsPath"), "{error}");
    }
    bench.end("ours", "first", "p-taken.scope")?;

    // One that ends by itself takes its unit along; removing it is fine then.
    let short = bench.bundle("short", "a.slice:p:short", "exit 3", &json!({}))?;
    bench.create("ours", "short", &short)?;
    bench.call("ours", &["start", "short"])?;
    tests::eventually(async || {
        ensure!(bench.state("ours", "short")?["status"] == "stopped", "it runs");
        Ok(())
    })
    .await?;
    bench.call("ours", &["delete", "short"])?;
    assert_eq!(bench.load_state("p-short.scope")?, "not-found");
    assert_eq!(bench.folders("p-short.scope"), Vec::<String>::new());
    Ok(())
}

/// The option of the shim: through the daemon, which is a service of systemd.
async fn through_the_daemon(bench: &Bench) -> Result<()> {
    let own = |name: &str| program(Origin::Ours, name).display().to_string();
    let folder = own("ctr").trim_end_matches("/ctr").to_owned();
    let path = format!("--setenv=PATH={folder}:/usr/sbin:/usr/bin:/sbin:/bin");
    let daemon = own("containerd");
    let start = [
        "systemd-run",
        "--unit=daemon",
        "--property=DefaultDependencies=no",
        "--property=Delegate=yes",
        &path,
        &daemon,
    ];
    let flags = ["--root", "/run/c/root", "--state", "/run/c/state", "--address", "/run/c/socket"];
    bench.systemd.out(start.iter().chain(&flags))?;
    let ctr = |words: &[&str]| {
        let program = own("ctr");
        let front = [&*program, "--address", "/run/c/socket"];
        bench.systemd.out(front.iter().chain(words).copied())
    };
    tests::eventually(async || ctr(&["version"])).await?;
    let rootfs = bench.sandbox.rootfs().display().to_string();
    let run = ["run", "--detach", "--null-io", "--runc-systemd-cgroup", "--cgroup"];
    let rest = ["a.slice:p:web", "--rootfs", &rootfs, "web", "/bin/sleep", "1000"];
    ctr(&[&run[..], &rest].concat())?;
    assert_eq!(bench.properties("p-web.scope")?["ControlGroup"], "/a.slice/p-web.scope");
    bench.systemd.out(["test", "-e", "/run/containerd/runc/default/web/embedded.json"])?;
    let output =
        ctr(&["tasks", "exec", "--exec-id", "look", "web", "/bin/cat", "/proc/self/cgroup"])?;
    ensure!(output.lines().all(|line| line.ends_with("/a.slice/p-web.scope")), "{output}");
    ctr(&["tasks", "metrics", "web"])?;
    ctr(&["tasks", "kill", "--signal", "SIGKILL", "web"])?;
    ctr(&["tasks", "delete", "--force", "web"])?;
    assert_eq!(bench.load_state("p-web.scope")?, "not-found");
    assert_eq!(bench.folders("p-web.scope"), Vec::<String>::new());
    ctr(&["containers", "delete", "web"])?;
    bench.systemd.out(["systemctl", "stop", "daemon"])?;
    Ok(())
}

async fn all(bench: &Bench) -> Result<()> {
    as_with_runc(bench).await.context("as with runc")?;
    default_names(bench).await.context("default names")?;
    limits_hold(bench).await.context("limits hold")?;
    devices_stay(bench).await.context("devices stay")?;
    one_process(bench).await.context("one process")?;
    failures(bench).await.context("failures")
}

#[test]
fn over_the_bus() {
    with_systemd(Hierarchies::All, true, all);
}

#[test]
fn over_its_own_socket() {
    with_systemd(Hierarchies::All, false, all);
}

#[test]
fn in_the_v2_tree_alone() {
    with_systemd(Hierarchies::Unified, true, all);
}

#[test]
fn as_a_service() {
    with_systemd(Hierarchies::All, true, through_the_daemon);
}
