//! `ctr containers`, and nothing behind it

use anyhow::Result;
use containerd_api::legacy::Container;

use super::{connect, table};
use crate::cli::Global;

/// Prints all containers of 2015.
pub(crate) async fn run(global: &Global) -> Result<()> {
    let state = connect(global).await?.state().await?;
    let mut table = table("ID\tPATH\tSTATUS\tPID1");
    for container in &state.containers {
        table.line(line(container));
    }
    Ok(table.print()?)
}

fn line(container: &Container) -> String {
    let pid = container.processes.first().map_or(0, |process| process.pid);
    format!("{}\t{}\t{}\t{pid}", container.id, container.bundle_path, container.status)
}

#[cfg(test)]
mod tests {
    use containerd_api::legacy::Process;

    use super::*;

    #[test]
    fn columns_as_then() {
        let mut table = table("ID\tPATH\tSTATUS\tPID1");
        table.line(line(&Container {
            id: "redis".into(),
            bundle_path: "/containers/redis".into(),
            status: "running".into(),
            processes: vec![Process { pid: 11497, ..Process::default() }],
            ..Container::default()
        }));
        assert_eq!(
            table.render(),
            "ID                  PATH                STATUS              PID1\n\
             redis               /containers/redis   running             11497\n"
        );
    }
}
