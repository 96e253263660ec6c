//! `/openapi.json`, checked by a program that makes up requests from it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use containerd_api::legacy::StateRequest;
use tests::{Bed, DEADLINE, legacy::text, skip};
use tokio::process::Command;

use crate::curl::Rest;

/// The description is checked against the daemon by a program that makes up
/// requests from it.
pub(crate) async fn description_is_true(bed: &mut Bed) -> Result<()> {
    let schemathesis = match install(bed).await {
        Ok(program) => program,
        Err(reason) => {
            skip("ours::description_is_true", &format!("no schemathesis: {reason:#}"));
            return Ok(());
        }
    };
    let rest = Rest::enable(bed).await?;
    rest.start(bed, "box", "sleep 1000").await?;
    // With a container, which it learns of from the state, and without. Programs
    // that are not there fail in the container's runtime, which is a 500, and
    // checkpoints are a 501.
    let not_with_one = ["createCheckpoint", "addProcess", "addProcesses"];
    let excluded: Vec<_> =
        not_with_one.iter().flat_map(|name| ["--exclude-operation-id", *name]).collect();
    check(bed, &schemathesis, &rest, &excluded).await?;
    // It knows the container from the state, and may have killed it.
    let state = bed.legacy().state(StateRequest {}).await?.into_inner();
    ensure!(state.containers.iter().all(|container| container.id == "box"), "{state:?}");
    if !state.containers.is_empty() {
        rest.end("box").await?;
    }
    check(bed, &schemathesis, &rest, &[]).await?;
    let state = bed.legacy().state(StateRequest {}).await?.into_inner();
    ensure!(state.containers.is_empty(), "{state:?}");
    Ok(())
}

pub(crate) async fn check(
    bed: &Bed,
    schemathesis: &Path,
    rest: &Rest,
    more: &[&str],
) -> Result<()> {
    let ran = Command::new(schemathesis)
        .arg("run")
        .arg(format!("http://{}/openapi.json", rest.address))
        // It never ends, so there is nothing to be looked at.
        .args(["--exclude-path", "/events"])
        // No description knows which bundles and programs there are.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--max-examples", "50", "--workers", "1", "--request-timeout", "30"])
        .args(["--phases", "examples,coverage,fuzzing", "--no-color", "--seed", "2015"])
        .args(more)
        .current_dir(bed.sandbox.folder())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(5 * DEADLINE, ran).await.context("schemathesis hangs")??;
    let said = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// Into a folder of this test.
pub(crate) async fn install(bed: &Bed) -> Result<PathBuf> {
    let folder = bed.sandbox.path("venv");
    let venv = text(&folder)?;
    let pip = text(&folder.join("bin/pip"))?;
    for words in [
        vec!["python3", "-m", "venv", &venv],
        vec![&pip, "install", "--quiet", "--disable-pip-version-check", "schemathesis==4.32.5"],
    ] {
        let ran = Command::new(words[0]).args(&words[1..]).kill_on_drop(true).output();
        let ran = tokio::time::timeout(Duration::from_secs(240), ran).await;
        let ran = ran.with_context(|| format!("{words:?} hangs"))??;
        if !ran.status.success() {
            bail!("{words:?}: {}", String::from_utf8_lossy(&ran.stderr).trim());
        }
    }
    Ok(folder.join("bin/schemathesis"))
}
