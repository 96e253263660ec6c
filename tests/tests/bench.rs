//! The benchmark program, with next to nothing to do: every section must have
//! its figures, and as many of them as it was told. What they are is of no
//! matter here.

use std::{collections::BTreeSet, fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use containerd_api::services::namespaces::v1::ListNamespacesRequest;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Bed, Origin, eventually, obstacle_to_crun, proc, run_plain, within};
use tokio::process::Command;

const COUNT: usize = 3;
const ROUNDS: usize = 2;

/// Our daemon and Debian's.
const DAEMONS: [&str; 2] = ["this", "containerd 1.6"];

#[test]
fn every_section_has_its_figures() {
    run_plain(&[Origin::Ours, Origin::Debian], async || {
        let report = bench(&[]).await?;
        for concurrency in [1, 4] {
            for contender in DAEMONS {
                cycles(&report, "lifecycle", contender, concurrency, ROUNDS)?;
            }
        }
        let mut runtimes = vec!["this", "this with runc"];
        if obstacle_to_crun().is_none() {
            runtimes.push("this with crun");
        }
        for concurrency in [1, 10] {
            cycles(&report, "floor", "kernel alone", concurrency, 1)?;
            cycles(&report, "floor", "kernel with cgroups", concurrency, 1)?;
            for contender in &runtimes {
                cycles(&report, "runtimes", contender, concurrency, ROUNDS)?;
            }
        }
        for contender in DAEMONS {
            residents(&report, contender)?;
            expect(&report, "restart", contender, "until the daemon is ready", ROUNDS)?;
            let listed = "until all tasks are listed as running";
            expect(&report, "restart", contender, listed, ROUNDS)?;
            expect(&report, "restart", contender, "until Wait has told of an exit", ROUNDS)?;
        }
        ensure!(report["machine"]["cores"].as_u64() > Some(0), "{}", report["machine"]);
        ensure!(report["versions"].as_object().is_some_and(|all| all.len() >= 2));
        Ok(())
    });
}

tests::every_daemon!(a_running_daemon_is_measured, an_interrupted_run_leaves_nothing);

/// A daemon that somebody else has started is measured, and is left as it was.
async fn a_running_daemon_is_measured(bed: &mut Bed) -> Result<()> {
    let pid = bed.daemon.pid();
    let address = bed.daemon.socket().display().to_string();
    let runtime = bed.runtime();
    let report = bench(&["--address", &address, "--runtime", &runtime]).await?;
    cycles(&report, "lifecycle", "running", 4, ROUNDS)?;
    residents(&report, "running")?;
    let sections: BTreeSet<_> =
        report["sections"].as_object().context("sections")?.keys().collect();
    ensure!(!sections.contains(&"restart".to_owned()), "somebody's daemon was killed");
    let notes = report["notes"].to_string();
    ensure!(notes.contains("without restart") && notes.contains("without runtimes"), "{notes}");
    ensure!(bed.daemon.pid() == pid);
    ensure!(namespace(bed).await?.is_none(), "the namespace is left");
    Ok(())
}

/// In the middle of starting containers under somebody else's daemon.
async fn an_interrupted_run_leaves_nothing(bed: &mut Bed) -> Result<()> {
    let bench = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["start", "--count", "10000", "--address"])
        .arg(bed.daemon.socket())
        .args(["--runtime", &bed.runtime()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = bench.id().context("pid")?;
    eventually(async || {
        let shims = namespace(bed).await?.map(|name| proc::shims_in(&name).len());
        ensure!(shims > Some(10), "{shims:?} shims");
        Ok(())
    })
    .await?;
    proc::signal(pid, Signal::SIGINT);
    let output = within("the end of an interrupted run", bench.wait_with_output()).await??;
    let stderr = text(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {stderr}", output.status);
    ensure!(stderr.contains("interrupted") && !stderr.contains("clean up"), "{stderr}");
    ensure!(namespace(bed).await?.is_none(), "the namespace is left");
    Ok(())
}

/// The namespace in which the program makes its containers, while there is one.
async fn namespace(bed: &Bed) -> Result<Option<String>> {
    let list = bed.api().namespaces().list(ListNamespacesRequest::default()).await?.into_inner();
    let names = list.namespaces.into_iter().map(|namespace| namespace.name);
    Ok(names.into_iter().find(|name| name.starts_with("ct-") && name != bed.namespace()))
}

/// Everything but what only a daemon of our own can be used for.
fn residents(report: &Value, contender: &str) -> Result<()> {
    expect(report, "exec", contender, "exec", COUNT)?;
    expect(report, "memory", contender, "RSS of the daemon, idle", 1)?;
    expect(report, "memory", contender, "RSS of the daemon, with all containers", 1)?;
    expect(report, "memory", contender, "a shim, proportional (PSS)", COUNT)?;
    expect(report, "memory", contender, "a shim, private", COUNT)?;
    expect(report, "exits", contender, "until the last exit is heard", 1)?;
    let figures = find(report, "start", contender, "start", None)?;
    count(&figures, &[("ms", COUNT), ("per second", ROUNDS)])
}

/// So many cycles and rates of a contender.
fn cycles(
    report: &Value,
    section: &str,
    contender: &str,
    concurrency: u64,
    rates: usize,
) -> Result<()> {
    let figures = find(report, section, contender, "cycle", Some(concurrency))?;
    count(&figures, &[("ms", COUNT), ("per second", rates)])
        .with_context(|| format!("{section} of {contender}"))
}

/// So many values of the only figure of that name.
fn expect(report: &Value, section: &str, contender: &str, name: &str, values: usize) -> Result<()> {
    let figures = find(report, section, contender, name, None)?;
    let unit = if section == "memory" { "MB" } else { "ms" };
    count(&figures, &[(unit, values)]).with_context(|| format!("{section} of {contender}: {name}"))
}

fn find<'a>(
    report: &'a Value,
    section: &str,
    contender: &str,
    name: &str,
    concurrency: Option<u64>,
) -> Result<Vec<&'a Value>> {
    let figures = report["sections"][section].as_array();
    let figures = figures.with_context(|| format!("no section {section} in {report}"))?;
    let found = figures.iter().filter(|figure| {
        figure["contender"] == contender
            && figure["name"] == name
            && concurrency.is_none_or(|concurrency| figure["concurrency"] == concurrency)
    });
    Ok(found.collect())
}

/// Exactly these figures, each with as many values, all of them sensible.
fn count(figures: &[&Value], expected: &[(&str, usize)]) -> Result<()> {
    ensure!(figures.len() == expected.len(), "{} figures: {figures:?}", figures.len());
    for (figure, (unit, count)) in figures.iter().zip(expected) {
        let values = figure["values"].as_array().context("values")?;
        ensure!(figure["unit"] == *unit && figure["count"] == *count, "{figure}");
        ensure!(values.len() == *count, "{figure}");
        ensure!(values.iter().all(|value| value.as_f64() > Some(0.0)), "{figure}");
    }
    Ok(())
}

/// Runs all sections; gives back what was written as JSON.
async fn bench(arguments: &[&str]) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let (json, plots) = (folder.path().join("figures.json"), folder.path().join("plots"));
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--count", &COUNT.to_string(), "--rounds", &ROUNDS.to_string()])
        .args(["--concurrency", "1,4"])
        .arg("--json")
        .arg(&json)
        .arg("--svg")
        .arg(&plots)
        .args(arguments)
        .output()
        .await?;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{}:\n{stderr}\n{stdout}", output.status);
    for title in ["### Lifecycle", "### The kernel's floor", "### Memory", "### Exits"] {
        ensure!(stdout.contains(title), "no {title} in\n{stdout}");
    }
    for plot in ["lifecycle.svg", "starts.svg"] {
        let text = fs::read_to_string(plots.join(plot)).with_context(|| plot.to_owned())?;
        ensure!(text.starts_with("<svg") && text.ends_with("</svg>\n"), "{text}");
    }
    Ok(serde_json::from_str(&fs::read_to_string(json)?)?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
