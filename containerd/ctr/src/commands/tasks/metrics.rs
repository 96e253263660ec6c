//! `ctr tasks metrics`

use anyhow::Result;
use clap::{Args, ValueEnum};
use containerd_api::cgroups::{v1, v2};
use containerd_client::Usage;

use crate::{cli::Global, json, session, table::Table, time};

/// Print what a task uses.
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// As a table, or as JSON with everything that was measured
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Id of the container
    container: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Metrics {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let (_, task) = session::task(global, &self.container).await?;
        let metrics = task.metrics().await?;
        let usage = metrics.usage()?;
        if let Format::Json = self.format {
            let value = match usage {
                Usage::V1(usage) => serde_json::to_value(usage)?,
                Usage::V2(usage) => serde_json::to_value(usage)?,
            };
            return json::print_indented(&json::without_empty(value), "  ");
        }
        let mut table = Table::new(1, 4);
        table.line("ID\tTIMESTAMP\t");
        table.line(format!("{}\t{}\t", metrics.id, time::go(metrics.timestamp)));
        table.line("");
        table.line("METRIC\tVALUE\t");
        let rows = match &usage {
            Usage::V1(usage) => rows_v1(usage),
            Usage::V2(usage) => rows_v2(usage),
        };
        for (name, value) in rows {
            table.line(format!("{name}\t{value}\t"));
        }
        Ok(table.print()?)
    }
}

type Rows = Vec<(&'static str, String)>;

fn rows_v1(usage: &v1::Metrics) -> Rows {
    let mut rows = Rows::new();
    if let Some(memory) = &usage.memory {
        let bytes = memory.usage.unwrap_or_default();
        rows.push(("memory.usage_in_bytes", bytes.usage.to_string()));
        rows.push(("memory.limit_in_bytes", bytes.limit.to_string()));
        rows.push(("memory.stat.cache", memory.total_cache.to_string()));
    }
    if let Some(cpu) = usage.cpu.as_ref().and_then(|cpu| cpu.usage.as_ref()) {
        let each: Vec<String> = cpu.per_cpu.iter().map(u64::to_string).collect();
        rows.push(("cpuacct.usage", cpu.total.to_string()));
        rows.push(("cpuacct.usage_percpu", format!("[{}]", each.join(" "))));
    }
    if let Some(pids) = &usage.pids {
        rows.push(("pids.current", pids.current.to_string()));
        rows.push(("pids.limit", pids.limit.to_string()));
    }
    rows
}

fn rows_v2(usage: &v2::Metrics) -> Rows {
    let mut rows = Rows::new();
    if let Some(pids) = &usage.pids {
        rows.push(("pids.current", pids.current.to_string()));
        rows.push(("pids.limit", pids.limit.to_string()));
    }
    if let Some(cpu) = &usage.cpu {
        rows.push(("cpu.usage_usec", cpu.usage_usec.to_string()));
        rows.push(("cpu.user_usec", cpu.user_usec.to_string()));
        rows.push(("cpu.system_usec", cpu.system_usec.to_string()));
        rows.push(("cpu.nr_periods", cpu.nr_periods.to_string()));
        rows.push(("cpu.nr_throttled", cpu.nr_throttled.to_string()));
        rows.push(("cpu.throttled_usec", cpu.throttled_usec.to_string()));
    }
    if let Some(memory) = &usage.memory {
        rows.push(("memory.usage", memory.usage.to_string()));
        rows.push(("memory.usage_limit", memory.usage_limit.to_string()));
        rows.push(("memory.swap_usage", memory.swap_usage.to_string()));
        rows.push(("memory.swap_limit", memory.swap_limit.to_string()));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_has_no_row() {
        assert_eq!(rows_v1(&v1::Metrics::default()), []);
        let pids = v2::PidsStat { current: 3, limit: 0 };
        let usage = v2::Metrics { pids: Some(pids), ..v2::Metrics::default() };
        assert_eq!(rows_v2(&usage), [("pids.current", "3".into()), ("pids.limit", "0".into())]);
    }
}
