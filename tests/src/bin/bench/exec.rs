//! Processes that join a container.

use anyhow::{Context, Result, ensure};
use tests::{Load, Process, Stdio};

use crate::{Bench, Section, contenders, report::Figure};

/// Execs, in all rounds together.
const EXECS: usize = 200;

/// `true` in a running container, one at a time: described, started, ended,
/// deleted.
///
/// # Errors
/// A daemon refuses, or leaves something behind.
pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let contenders = contenders(bench, Section::Exec);
    let rounds = bench.rounds(bench.count(EXECS));
    let Bench { report, field, .. } = bench;
    field
        .with(&contenders, async |targets| {
            let mut hosts = Vec::new();
            for target in &*targets {
                report.met(target).await?;
                let host = target.load().settle("host").await?;
                exec(&target.load(), "warm-up").await?;
                hosts.push(host);
            }
            let mut first = 0;
            for count in rounds {
                for target in &*targets {
                    let turn =
                        target.side_by_side(1, first, count, move |load, number| async move {
                            exec(&load, &format!("exec-{number}")).await
                        });
                    let figure = Figure::of(Section::Exec, target.contender.name, "exec");
                    report.add(figure.concurrency(1).containers(1), turn.await?.times);
                }
                first += count;
            }
            for (target, host) in targets.iter().zip(&hosts) {
                target.load().destroy(host).await?;
            }
            Ok(())
        })
        .await
}

async fn exec(load: &Load, id: &str) -> Result<()> {
    let host = Process::of(load.api(), "host");
    let mut exec = host.exec_args(id, &["/bin/true"], Stdio::null()).await.context("exec")?;
    exec.start().await.context("start exec")?;
    let exit = exec.wait().await?;
    ensure!(exit.status == 0, "{id}: {exit:?}");
    exec.delete().await.context("delete exec")?;
    Ok(())
}
