//! The text format of Prometheus, version 0.0.4 (`docs/instrumenting/exposition_formats`).

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use containerd_core::telemetry::Counted;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a figure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

/// Figures by name. Those of one name stand together, with one explanation.
#[derive(Default)]
pub(super) struct Families(BTreeMap<String, Family>);

struct Family {
    kind: Kind,
    help: &'static str,
    samples: Vec<Sample>,
}

struct Sample {
    /// What comes behind the name.
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Families {
    pub(super) fn add(
        &mut self,
        name: &str,
        kind: Kind,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        self.add_part(name, kind, help, "", labels, value);
    }

    /// One of the figures that a family of several has.
    pub(super) fn add_part(
        &mut self,
        name: &str,
        kind: Kind,
        help: &'static str,
        suffix: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        let family = self.0.entry(name.to_owned());
        let family = family.or_insert_with(|| Family { kind, help, samples: Vec::new() });
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        family.samples.push(Sample { suffix, labels, value });
    }

    /// How many durations were short.
    pub(super) fn add_histogram(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        counted: &Counted,
    ) {
        let mut part = |suffix, labels: &[(&'static str, &str)], value| {
            self.add_part(name, Kind::Histogram, help, suffix, labels, value);
        };
        let steps = counted.steps.iter();
        let steps = steps.map(|(longest, count)| (longest.as_secs_f64().to_string(), *count));
        for (longest, count) in steps.chain([("+Inf".to_owned(), counted.count)]) {
            let labels: Vec<_> = labels.iter().copied().chain([("le", &*longest)]).collect();
            part("_bucket", &labels, count as f64);
        }
        part("_sum", labels, counted.total.as_secs_f64());
        part("_count", labels, counted.count as f64);
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        for (name, family) in &self.0 {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
                Kind::Summary => "summary",
            };
            writeln!(text, "# HELP {name} {}", family.help)?;
            writeln!(text, "# TYPE {name} {kind}")?;
            for Sample { suffix, labels, value } in &family.samples {
                write!(text, "{name}{suffix}")?;
                for (place, (label, value)) in labels.iter().enumerate() {
                    let open = if place == 0 { '{' } else { ',' };
                    write!(text, "{open}{label}=\"{}\"", escaped(value))?;
                }
                if !labels.is_empty() {
                    text.push('}');
                }
                writeln!(text, " {value}")?;
            }
        }
        Ok(())
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_of_a_name_stand_together() {
        let mut families = Families::default();
        families.add("b_bytes", Kind::Gauge, "B.", &[("id", "x"), ("q", "a\"b\\c\nd")], 1e10);
        families.add("a_total", Kind::Counter, "A.", &[], 0.5);
        families.add("b_bytes", Kind::Gauge, "other", &[("id", "y")], 2.0);
        families.add_part("c", Kind::Summary, "C.", "_count", &[], 3.0);
        assert_eq!(
            families.render(),
            "# HELP a_total A.\n# TYPE a_total counter\na_total 0.5\n\
             # HELP b_bytes B.\n# TYPE b_bytes gauge\n\
             b_bytes{id=\"x\",q=\"a\\\"b\\\\c\\nd\"} 10000000000\nb_bytes{id=\"y\"} 2\n\
             # HELP c C.\n# TYPE c summary\nc_count 3\n"
        );
    }

    #[test]
    fn histograms_end_in_all() {
        let ms = Duration::from_millis;
        let steps = vec![(ms(5), 1), (ms(2500), 2)];
        let mut families = Families::default();
        let counted = Counted { steps, total: ms(4500), count: 3 };
        families.add_histogram("a_seconds", "A.", &[("id", "x")], &counted);
        assert_eq!(
            families.render(),
            "# HELP a_seconds A.\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{id=\"x\",le=\"0.005\"} 1\n\
             a_seconds_bucket{id=\"x\",le=\"2.5\"} 2\n\
             a_seconds_bucket{id=\"x\",le=\"+Inf\"} 3\n\
             a_seconds_sum{id=\"x\"} 4.5\na_seconds_count{id=\"x\"} 3\n"
        );
    }
}
