//! Figures of the daemon and of its containers, and the options of 2015.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tests::{Bed, eventually, skip, within};
use tokio::{io::AsyncWriteExt, process::Command};

tests::pairing!(
    ours,
    tests::Pairing::OURS,
    prometheus_is_served,
    figures_are_logged,
    starts_are_limited,
    options_are_dumped,
);

/// Where promtool is, if Debian's package is installed.
const PROMTOOL: &str = "/usr/bin/promtool";

/// Adds to the configuration and starts the daemon anew.
async fn configure(bed: &mut Bed, more: &str) -> Result<()> {
    let config = fs::read_to_string(bed.daemon.config())?;
    fs::write(bed.daemon.config(), format!("{config}{more}"))?;
    bed.daemon.stop().await?;
    bed.daemon.start(&bed.sandbox).await
}

/// Name and labels of each figure, and its value.
async fn scrape(bed: &Bed) -> Result<(String, BTreeMap<String, f64>)> {
    let log = bed.daemon.log();
    let line = log.lines().rfind(|line| line.contains("serving metrics")).context("not served")?;
    let address = line.rsplit("address=").next().context("address")?.trim_matches('"');
    let url = format!("http://{address}/v1/metrics");
    let ran = Command::new("curl").args(["-sSf", &url]).kill_on_drop(true).output();
    let ran = within("scrape", ran).await??;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout)?;
    let mut figures = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').context("no value")?;
        let value = value.parse().with_context(|| line.to_owned())?;
        ensure!(figures.insert(name.to_owned(), value).is_none(), "{name} is there twice");
    }
    Ok((text, figures))
}

/// Dashboards that were made for containerd find what they look for.
async fn prometheus_is_served(bed: &mut Bed) -> Result<()> {
    configure(bed, "[metrics]\naddress = \"127.0.0.1:0\"\ngrpc_histogram = true\n").await?;
    let (_, before) = scrape(bed).await?;
    assert_eq!(before["containerd_containers"], 0.0);
    let ghost = bed.process("ghost", "").kill(Signal::SIGKILL).await;
    ensure!(ghost.is_err_and(|e| e.code() == tonic::Code::NotFound), "there is none");
    let tasks = [
        bed.start_container("one", "sleep 1000").await?,
        bed.start_container("two", "sleep 1000").await?,
    ];
    let (text, figures) = scrape(bed).await?;
    assert_eq!(figures["containerd_containers"], 2.0);
    assert_eq!(figures["containerd_container_start_time_seconds_count"], 2.0);
    ensure!(figures["containerd_container_start_time_seconds{quantile=\"0.5\"}"] > 0.0, "{text}");
    ensure!(figures["containerd_events_total"] > before["containerd_events_total"], "{text}");
    for name in ["process_open_fds", "process_resident_memory_bytes", "containerd_async_tasks"] {
        ensure!(figures[name] > 0.0, "{name} in {text}");
    }
    ensure!(figures.keys().any(|name| name.starts_with("containerd_build_info_total{")), "{text}");
    let of_tasks = |method: &str| {
        let service = "grpc_service=\"containerd.services.tasks.v1.Tasks\"";
        format!("grpc_method=\"{method}\",{service},grpc_type=\"unary\"")
    };
    let create = of_tasks("Create");
    for name in ["started", "msg_received", "msg_sent"] {
        assert_eq!(figures[&format!("grpc_server_{name}_total{{{create}}}")], 2.0, "{name}");
    }
    for (code, method, count) in
        [("OK", "Create", 2.0), ("NotFound", "Kill", 1.0), ("Unavailable", "Kill", 0.0)]
    {
        let labels = of_tasks(method);
        let name = format!("grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}}");
        assert_eq!(figures[&name], count, "{name}");
    }
    let of_grpc = |figures: &BTreeMap<String, f64>| {
        figures.keys().filter(|name| name.starts_with("grpc_server_")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of_grpc(&before), of_grpc(&figures));
    assert_eq!(figures["containerd_gc_collections_total{status=\"fail\"}"], 0.0);
    ensure!(figures.contains_key("containerd_gc_gc_seconds_bucket{le=\"+Inf\"}"), "{text}");
    for id in ["one", "two"] {
        let labels = format!("{{container_id=\"{id}\",namespace=\"{}\"}}", bed.namespace());
        ensure!(figures[&format!("container_pids_current{labels}")] >= 1.0, "{text}");
        // By the version of cgroups that this machine has.
        let memory = ["container_memory_usage_usage_bytes", "container_memory_usage_bytes"];
        let usage = memory.iter().find_map(|name| figures.get(&format!("{name}{labels}")));
        ensure!(usage.is_some_and(|usage| *usage > 0.0), "{text}");
    }
    // Each name is explained once, before its figures.
    let explained: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(explained.len(), explained.iter().collect::<BTreeSet<_>>().len());
    match promtool(bed).await {
        Ok(promtool) => check(&promtool, &text).await?,
        Err(reason) => skip("ours::prometheus_is_served, promtool", &format!("{reason:#}")),
    }
    for task in &tasks {
        bed.destroy(task).await?;
    }
    let (text, after) = scrape(bed).await?;
    ensure!(!text.contains("container_id="), "{text}");
    assert_eq!(after["containerd_containers"], 0.0);
    Ok(())
}

/// Debian's, or out of its package.
async fn promtool(bed: &Bed) -> Result<PathBuf> {
    if fs::exists(PROMTOOL)? {
        return Ok(PROMTOOL.into());
    }
    let folder = bed.sandbox.path("prometheus");
    fs::create_dir(&folder)?;
    let script = "apt-get download --quiet prometheus && dpkg-deb --extract prometheus_*.deb .";
    let ran =
        Command::new("sh").args(["-c", script]).current_dir(&folder).kill_on_drop(true).output();
    let ran = within("the package prometheus", ran).await??;
    if !ran.status.success() {
        bail!("no package prometheus: {}", String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(folder.join("usr/bin/promtool"))
}

/// It has to be understood. What the checker thinks of containerd's names is
/// another matter: those of cgroups are not as it would have them, and stay.
async fn check(promtool: &PathBuf, text: &str) -> Result<()> {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().context("input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let ran = within("promtool", child.wait_with_output()).await??;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    // 3 is for remarks (Prometheus, `cmd/promtool`).
    ensure!(matches!(ran.status.code(), Some(0 | 3)), "{:?}: {said}", ran.status);
    let ours: Vec<_> = said.lines().filter(|line| !line.starts_with("container_")).collect();
    ensure!(ours.is_empty(), "{ours:?}");
    Ok(())
}

/// The blocks that the first containerd wrote.
async fn figures_are_logged(bed: &mut Bed) -> Result<()> {
    configure(bed, "[metrics]\ninterval = \"50ms\"\n").await?;
    let task = bed.start_container("one", "sleep 1000").await?;
    let log = eventually(async || {
        let log = bed.daemon.log();
        let block =
            log.rsplit_once("timer container-start-time").map(|(_, block)| block.to_owned());
        let block = block.context("no timer")?;
        ensure!(block.contains("gauge tasks"), "it is not complete");
        ensure!(block.contains("  count:               1"), "{block}");
        Ok(block)
    })
    .await?;
    let mut rest = log.as_str();
    for word in [
        "count:",
        "min:",
        "max:",
        "mean:",
        "stddev:",
        "median:",
        "75%:",
        "95%:",
        "99%:",
        "99.9%:",
        "1-min rate:",
        "5-min rate:",
        "15-min rate:",
        "counter containers",
        "counter events",
        "counter events-subscribers",
        "gauge fds",
        "gauge tasks",
    ] {
        let (_, after) = rest.split_once(word).with_context(|| format!("no {word} in {log}"))?;
        rest = after;
    }
    bed.destroy(&task).await
}

/// No more than so many at once, whoever starts them; all get their turn.
async fn starts_are_limited(bed: &mut Bed) -> Result<()> {
    let limit = "[plugins.\"io.containerd.shim.v1.manager\"]\nmax_concurrent_starts = 1\n";
    configure(bed, limit).await?;
    let starts = (0..6).map(|number| {
        let bed = &*bed;
        async move { bed.start_container(&format!("c{number}"), "sleep 1000").await }
    });
    for task in futures::future::try_join_all(starts).await? {
        task.kill(Signal::SIGKILL).await?;
        task.wait().await?;
        bed.remove(&task).await?;
    }
    Ok(())
}

/// What an option of 2015 means is what `config dump` shows.
async fn options_are_dumped(bed: &mut Bed) -> Result<()> {
    let mut command = bed.daemon.command(&bed.sandbox)?;
    command.args([
        "--id",
        "box",
        "--debug",
        "--state-dir",
        "/tmp/state",
        "--concurrency",
        "7",
        "--metrics-interval",
        "90s",
        "--listen",
        "/tmp/listen.sock",
        "--oom-notify",
        "config",
        "dump",
    ]);
    let ran = within("config dump", command.stdout(Stdio::piped()).output()).await??;
    ensure!(ran.status.success(), "{ran:?}");
    let text = String::from_utf8(ran.stdout)?;
    for line in [
        "id = \"box\"",
        "level = \"debug\"",
        "state = \"/tmp/state\"",
        "max_concurrent_starts = 7",
        "interval = \"90s\"",
        "address = \"/tmp/listen.sock\"",
        "oom_notify = true",
    ] {
        ensure!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    Ok(())
}
