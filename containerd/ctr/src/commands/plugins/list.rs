//! `ctr plugins list`

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use containerd_client::{Platform, Plugin};

use crate::{cli::Global, listing::Listing, session, table::Table};

/// What Go's daemon says of a plugin that is off on purpose
/// (`github.com/containerd/plugin`); there is no code for it.
const SKIPPED: &str = "skip plugin";

/// List the parts of the daemon.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    listing: Listing,
    /// Print everything that is known of each
    #[arg(short, long)]
    detailed: bool,
    /// Only those that a filter matches, such as type==io.containerd.grpc.v1
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl List {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let plugins = session::connect(global).await?.plugins(&self.filters).await?;
        if self.detailed && !self.listing.quiet {
            let mut table = Table::new(4, 4);
            for (i, plugin) in plugins.iter().enumerate() {
                if i > 0 {
                    table.line("\t\t\t");
                }
                describe(&mut table, plugin);
            }
            return Ok(table.print()?);
        }
        let table = Table::with_header(4, 4, "TYPE\tID\tPLATFORMS\tSTATUS\t");
        Ok(self.listing.print(
            &plugins,
            |plugin| &plugin.id,
            table,
            |plugin| {
                let (kind, id) = (&plugin.kind, &plugin.id);
                format!("{kind}\t{id}\t{}\t{}\t", platforms(&plugin.platforms), status(plugin))
            },
        )?)
    }
}

/// The spaces before values are in Go's output too.
fn describe(table: &mut Table, plugin: &Plugin) {
    table.line(format!("Type:\t {}", plugin.kind));
    table.line(format!("ID:\t {}", plugin.id));
    if !plugin.requires.is_empty() {
        table.line("Requires:\t");
        plugin.requires.iter().for_each(|kind| table.line(format!("\t {kind}")));
    }
    if !plugin.platforms.is_empty() {
        table.line(format!("Platforms:\t {}", platforms(&plugin.platforms)));
    }
    if !plugin.exports.is_empty() {
        table.line("Exports:\t");
        plugin.exports.iter().for_each(|(key, value)| table.line(format!("\t {key} \t {value}")));
    }
    if !plugin.capabilities.is_empty() {
        table.line(format!("Capabilities:\t {}", plugin.capabilities.join(",")));
    }
    if let Some((code, message)) = &plugin.init_error {
        table.line("Error:\t");
        table.line(format!("\t Code:\t {code}"));
        table.line(format!("\t Message:\t {message}"));
    }
}

fn status(plugin: &Plugin) -> &'static str {
    match &plugin.init_error {
        None => "ok",
        Some((_, message)) if message.contains(SKIPPED) => "skip",
        Some(_) => "error",
    }
}

fn platforms(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "-".into();
    }
    let names: BTreeSet<String> = platforms
        .iter()
        .map(|platform| {
            let parts = [&platform.os, &platform.architecture, &platform.variant];
            let parts: Vec<&str> =
                parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
            parts.join("/")
        })
        .collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_sorted_and_told_once() {
        let platform = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
            ..Platform::default()
        };
        assert_eq!(platforms(&[]), "-");
        let list = [platform("arm64", "v8"), platform("amd64", ""), platform("amd64", "")];
        assert_eq!(platforms(&list), "linux/amd64,linux/arm64/v8");
    }
}
