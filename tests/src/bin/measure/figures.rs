//! What was measured, and how it is shown.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result};
use tests::{
    Bed,
    figures::{Summary, megabytes},
    proc,
};

/// How our side is called in tables.
pub(crate) const OURS: &str = "this";
/// How the other side is called.
pub(crate) const ORIGINAL: &str = "Debian's containerd 1.6";

/// All figures of one contender, by the name of their row.
#[derive(Default)]
pub(crate) struct Figures(BTreeMap<&'static str, Vec<f64>>);

/// A row of a table.
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: &'static str,
    /// The unit of its figures.
    pub(crate) unit: &'static str,
    /// How many decimals they have.
    pub(crate) decimals: usize,
}

/// A row in few words.
pub(crate) const fn row(name: &'static str, unit: &'static str, decimals: usize) -> Row {
    Row { name, unit, decimals }
}

impl Figures {
    /// One more figure of a row.
    pub(crate) fn note(&mut self, row: &'static str, value: f64) {
        self.0.entry(row).or_default().push(value);
    }

    /// All that another one has.
    pub(crate) fn take(&mut self, other: Self) {
        for (row, values) in other.0 {
            self.0.entry(row).or_default().extend(values);
        }
    }

    fn median(&self, row: &str) -> Option<f64> {
        Summary::of(self.0.get(row)?).map(|summary| summary.median())
    }
}

/// A table in Markdown, with a column for each contender.
pub(crate) fn table(columns: &[(&str, &Figures)], rows: &[Row]) -> String {
    let mut text = String::from("|");
    for (name, _) in columns {
        let _ = write!(text, " | {name}");
    }
    text += " |\n| ---";
    text += &" | ---:".repeat(columns.len());
    text += " |\n";
    for Row { name, unit, decimals } in rows {
        let _ = write!(text, "| {name}");
        for (_, figures) in columns {
            match figures.median(name) {
                Some(value) => _ = write!(text, " | {value:.decimals$} {unit}"),
                None => text += " | -",
            }
        }
        text += " |\n";
    }
    text
}

/// The process id of a daemon.
pub(crate) fn pid(bed: &Bed) -> Result<u32> {
    bed.daemon.pid().context("no daemon")
}

/// The most memory that a daemon had since [`proc::reset_peak`].
pub(crate) fn peak(bed: &Bed) -> Result<f64> {
    Ok(megabytes(proc::peak(pid(bed)?)?))
}
