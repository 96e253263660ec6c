//! Everything that was measured, whatever it is shown as.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};
use tests::figures::Summary;

use crate::{Options, Section, machine::Machine, targets::Target};

/// Unit of latencies.
pub(crate) const MILLISECONDS: &str = "ms";
/// Unit of rates.
pub(crate) const PER_SECOND: &str = "per second";
/// Unit of memory: 1000 kilobytes of the kernel.
pub(crate) const MEGABYTES: &str = "MB";

/// Values of one thing, and what they are about.
#[derive(Clone)]
pub(crate) struct Figure {
    /// Where it belongs.
    pub(crate) section: Section,
    /// Whose it is.
    pub(crate) contender: &'static str,
    /// What was measured.
    pub(crate) name: &'static str,
    /// In which unit.
    pub(crate) unit: &'static str,
    /// How many at once; 0 where that has no meaning.
    pub(crate) concurrency: usize,
    /// How many containers there were; 0 where that has no meaning.
    pub(crate) containers: usize,
    /// In the order in which they came.
    pub(crate) values: Vec<f64>,
}

impl Figure {
    /// A latency without values.
    pub(crate) fn of(section: Section, contender: &'static str, name: &'static str) -> Self {
        Self {
            section,
            contender,
            name,
            unit: MILLISECONDS,
            concurrency: 0,
            containers: 0,
            values: Vec::new(),
        }
    }

    /// By another name.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// In another unit.
    pub(crate) fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// With so many at once.
    pub(crate) fn concurrency(self, concurrency: usize) -> Self {
        Self { concurrency, ..self }
    }

    /// With so many containers.
    pub(crate) fn containers(self, containers: usize) -> Self {
        Self { containers, ..self }
    }

    /// What the values say together.
    pub(crate) fn summary(&self) -> Option<Summary> {
        Summary::of(&self.values)
    }

    fn is_about_the_same(&self, other: &Self) -> bool {
        (self.section, self.contender, self.name) == (other.section, other.contender, other.name)
            && (self.unit, self.concurrency) == (other.unit, other.concurrency)
            && self.containers == other.containers
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "contender": self.contender,
            "name": self.name,
            "unit": self.unit,
            "concurrency": self.concurrency,
            "containers": self.containers,
            "count": self.values.len(),
            "values": self.values,
        });
        if let Some(summary) = self.summary() {
            for (key, value) in [
                ("min", summary.min()),
                ("max", summary.max()),
                ("mean", summary.mean()),
                ("stddev", summary.deviation()),
                ("median", summary.median()),
                ("p75", summary.percentile(75.0)),
                ("p95", summary.percentile(95.0)),
                ("p99", summary.percentile(99.0)),
                ("p99.9", summary.percentile(99.9)),
            ] {
                json[key] = value.into();
            }
        }
        json
    }
}

/// All figures of a run.
pub(crate) struct Report {
    /// Where it was.
    pub(crate) machine: Machine,
    /// What the daemons said they are, by contender.
    pub(crate) versions: BTreeMap<&'static str, String>,
    /// What a reader must know besides.
    pub(crate) notes: Vec<String>,
    settings: Value,
    figures: Vec<Figure>,
}

impl Report {
    /// Without figures yet.
    pub(crate) fn new(machine: Machine, options: &Options) -> Self {
        let settings = json!({
            "count": options.count,
            "rounds": options.rounds,
            "concurrency": options.concurrency,
        });
        let (versions, notes, figures) = Default::default();
        Self { machine, versions, notes, settings, figures }
    }

    /// Notes the version of a daemon.
    ///
    /// # Errors
    /// The daemon's.
    pub(crate) async fn met(&mut self, target: &Target) -> Result<()> {
        self.versions.insert(target.contender.name, target.version().await?);
        Ok(())
    }

    /// More values of a figure.
    pub(crate) fn add(&mut self, figure: Figure, values: impl IntoIterator<Item = f64>) {
        let known = self.figures.iter_mut().find(|known| known.is_about_the_same(&figure));
        match known {
            Some(known) => known.values.extend(values),
            None => {
                self.figures.push(figure);
                if let Some(last) = self.figures.last_mut() {
                    last.values.extend(values);
                }
            }
        }
    }

    /// Says why a section has no figures.
    pub(crate) fn skip(&mut self, section: Section, reason: &str) {
        self.note(format!("without {}: {reason}", name(section)));
    }

    /// Says something once.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The figures of a section, in the order in which they came.
    pub(crate) fn of(&self, section: Section) -> Vec<&Figure> {
        self.figures.iter().filter(|figure| figure.section == section).collect()
    }

    /// All of it.
    pub(crate) fn to_json(&self) -> Value {
        let mut sections = json!({});
        for section in Section::value_variants() {
            let figures: Vec<_> = self.of(*section).into_iter().map(Figure::to_json).collect();
            if !figures.is_empty() {
                sections[name(*section)] = figures.into();
            }
        }
        json!({
            "machine": self.machine.to_json(),
            "versions": self.versions,
            "settings": self.settings,
            "notes": self.notes,
            "sections": sections,
        })
    }
}

/// The name of a section as the command line has it.
pub(crate) fn name(section: Section) -> String {
    let value = section.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}
