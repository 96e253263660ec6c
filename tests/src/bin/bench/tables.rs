//! What was measured as Markdown.

use std::fmt::Write;

use ::tests::figures::Summary;

use crate::{
    Section,
    report::{Figure, MILLISECONDS, PER_SECOND, Report},
};

/// All tables of a run.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = about(report);
    for (section, title) in [
        (Section::Lifecycle, "Lifecycle: record, create, start, exit, delete"),
        (Section::Floor, "The kernel's floor"),
        (Section::Runtimes, "Lifecycle by OCI runtime"),
        (Section::Exec, "Exec in a running container"),
        (Section::Start, "Start of containers that stay"),
        (Section::Memory, "Memory"),
        (Section::Restart, "Restart of the daemon"),
        (Section::Exits, "Exits at once"),
    ] {
        let figures = report.of(section);
        if figures.is_empty() {
            continue;
        }
        let table = match section {
            Section::Lifecycle | Section::Floor | Section::Runtimes => cycles(&figures),
            Section::Exec | Section::Start => latencies(&figures),
            // What all shims take together is what matters.
            Section::Memory => columns(&figures, "mean", Summary::mean),
            Section::Restart | Section::Exits => columns(&figures, "median", Summary::median),
        };
        let _ = write!(text, "\n### {title}\n\n{table}");
    }
    text
}

fn about(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{} cores ({}), {} MB, Linux {}, load before: {}\n",
        machine.cores, machine.processor, machine.memory, machine.kernel, machine.load
    );
    text += "\n| program | version |\n| --- | --- |\n";
    for (name, version) in &report.versions {
        let _ = writeln!(text, "| daemon of \"{name}\" | {version} |");
    }
    for (name, version) in &machine.programs {
        let _ = writeln!(text, "| {name} | {version} |");
    }
    for note in &report.notes {
        let _ = write!(text, "\nNote: {note}\n");
    }
    text
}

/// A row for each concurrency and contender.
fn cycles(figures: &[&Figure]) -> String {
    let mut text = head(&["at once", "", "cycles", "per second", "p50", "p95", "p99"]);
    for figure in figures.iter().filter(|figure| figure.unit == MILLISECONDS) {
        let rate = figures.iter().find(|rate| {
            rate.unit == PER_SECOND
                && (rate.contender, rate.concurrency) == (figure.contender, figure.concurrency)
        });
        let rate = rate.and_then(|rate| rate.summary()).map(|rate| rate.median());
        let Some(summary) = figure.summary() else { continue };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            figure.concurrency,
            figure.contender,
            summary.count(),
            rate.map(number).unwrap_or_default(),
            value(summary.percentile(50.0), figure.unit),
            value(summary.percentile(95.0), figure.unit),
            value(summary.percentile(99.0), figure.unit),
        );
    }
    text
}

/// A column for each contender, a row for each thing to say of a latency.
fn latencies(figures: &[&Figure]) -> String {
    let times: Vec<_> = figures.iter().filter(|figure| figure.unit == MILLISECONDS).collect();
    let summaries: Vec<_> = times.iter().filter_map(|figure| figure.summary()).collect();
    let mut titles = vec!["latency"];
    titles.extend(times.iter().map(|figure| figure.contender));
    let mut text = head(&titles);
    let counts: Vec<_> = summaries.iter().map(|summary| summary.count().to_string()).collect();
    text += &row("count", &counts);
    type Of = fn(&Summary) -> f64;
    let rows: [(&str, Of); 9] = [
        ("min", Summary::min),
        ("max", Summary::max),
        ("mean", Summary::mean),
        ("stddev", Summary::deviation),
        ("median", Summary::median),
        ("75%", |summary| summary.percentile(75.0)),
        ("95%", |summary| summary.percentile(95.0)),
        ("99%", |summary| summary.percentile(99.0)),
        ("99.9%", |summary| summary.percentile(99.9)),
    ];
    for (name, of) in rows {
        let cells: Vec<_> =
            summaries.iter().map(|summary| value(of(summary), MILLISECONDS)).collect();
        text += &row(name, &cells);
    }
    let rates = figures.iter().filter(|figure| figure.unit == PER_SECOND);
    let rates: Vec<_> = rates.filter_map(|rate| Some(number(rate.summary()?.median()))).collect();
    if !rates.is_empty() {
        text += &row("per second", &rates);
    }
    text
}

/// A column for each contender, a row for each figure: what `of` says of it.
fn columns(figures: &[&Figure], title: &str, of: fn(&Summary) -> f64) -> String {
    let mut contenders: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, usize)> = Vec::new();
    for figure in figures {
        if !contenders.contains(&figure.contender) {
            contenders.push(figure.contender);
        }
        if !rows.contains(&(figure.name, figure.containers)) {
            rows.push((figure.name, figure.containers));
        }
    }
    let mut titles = vec![title, "containers"];
    titles.extend(&contenders);
    let mut text = head(&titles);
    for (name, containers) in rows {
        let mut cells = vec![containers.to_string()];
        cells.extend(contenders.iter().map(|contender| {
            let figure = figures.iter().find(|figure| {
                (figure.contender, figure.name) == (contender, name)
                    && figure.containers == containers
            });
            let summary = figure.and_then(|figure| Some((figure.summary()?, figure.unit)));
            summary.map_or("-".into(), |(summary, unit)| value(of(&summary), unit))
        }));
        text += &row(name, &cells);
    }
    text
}

fn head(titles: &[&str]) -> String {
    let rest = " ---: |".repeat(titles.len() - 1);
    format!("| {} |\n| --- |{rest}\n", titles.join(" | "))
}

fn row(name: &str, cells: &[String]) -> String {
    format!("| {name} | {} |\n", cells.join(" | "))
}

fn value(value: f64, unit: &str) -> String {
    format!("{} {unit}", number(value))
}

/// Three digits that mean something, or all before the point.
fn number(value: f64) -> String {
    let decimals = match value {
        99.95.. => 0,
        9.995..99.95 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_three_digits() {
        assert_eq!(number(0.356), "0.36");
        assert_eq!(number(23.44), "23.4");
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(99.97), "100");
    }

    #[test]
    fn a_contender_has_a_column() {
        let figure = |contender, values: &[f64]| {
            let figure = Figure::of(Section::Exits, contender, "exits").containers(3);
            Figure { values: values.to_vec(), ..figure }
        };
        let (a, b) = (figure("a", &[1.0, 2.0, 9.0]), figure("b", &[40.0]));
        let expected = "| median | containers | a | b |\n\
                        | --- | ---: | ---: | ---: |\n\
                        | exits | 3 | 2.00 ms | 40.0 ms |\n";
        assert_eq!(columns(&[&a, &b], "median", Summary::median), expected);
    }
}
