//! What was measured as pictures.

use ::tests::figures::Summary;

use crate::{
    Section,
    report::{Figure, MILLISECONDS, Report},
    svg::{COLOURS, Svg},
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Where the marks are.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 704.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 350.0;
/// Width of a bar; whiskers are half as wide.
const BAR: f64 = 30.0;
/// Values that fit on a line of text beside each other.
const POINTS: usize = 400;

/// Names of files and their text, for what has figures.
pub(crate) fn all(report: &Report) -> Vec<(&'static str, String)> {
    let lifecycle = [report.of(Section::Lifecycle), report.of(Section::Floor)].concat();
    let plots = [
        ("lifecycle.svg", bars("Lifecycle by concurrency: median, and up to p95", &lifecycle)),
        (
            "runtimes.svg",
            bars("Lifecycle by OCI runtime: median, and up to p95", &report.of(Section::Runtimes)),
        ),
        ("starts.svg", shares("Containers started within a time", &report.of(Section::Start))),
    ];
    plots.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

/// A group for each concurrency, a bar in it for each contender.
fn bars(title: &str, figures: &[&Figure]) -> Option<String> {
    let figures = latencies(figures);
    let mut groups: Vec<_> = figures.iter().map(|(figure, _)| figure.concurrency).collect();
    groups.sort_unstable();
    groups.dedup();
    let scale =
        Decades::over(figures.iter().flat_map(|(_, all)| [all.median(), all.percentile(95.0)]))?;
    let contenders = contenders(&figures);
    let mut svg = frame(title, &contenders);
    svg.text("small", (LEFT, TOP - 12.0), "milliseconds, logarithmic");
    for tick in scale.ticks() {
        let y = scale.y(tick);
        svg.line("grid", (LEFT, y), (RIGHT, y));
        svg.text("small end", (LEFT - 6.0, y + 4.0), &tick.to_string());
    }
    let group_width = (RIGHT - LEFT) / groups.len() as f64;
    for (number, concurrency) in groups.iter().enumerate() {
        let members: Vec<_> =
            figures.iter().filter(|(figure, _)| figure.concurrency == *concurrency).collect();
        let middle = LEFT + group_width * (number as f64 + 0.5);
        let first = middle - BAR * members.len() as f64 / 2.0;
        for (place, (figure, summary)) in members.into_iter().enumerate() {
            let x = first + BAR * place as f64;
            let colour = colour(&contenders, figure.contender);
            let y = scale.y(summary.median());
            svg.bar(&format!("s{colour}"), (x + 2.0, y), BAR - 4.0, BOTTOM - y);
            let (x, high) = (x + BAR / 2.0, scale.y(summary.percentile(95.0)));
            svg.line("whisker", (x, y), (x, high));
            svg.line("whisker", (x - BAR / 4.0, high), (x + BAR / 4.0, high));
            svg.text("small middle", (x, high - 5.0), &format!("{:.0}", summary.median()));
        }
        svg.text("middle", (middle, BOTTOM + 20.0), &format!("{concurrency} at once"));
    }
    svg.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    Some(svg.finish())
}

/// Which share took at most how long, a curve for each contender.
fn shares(title: &str, figures: &[&Figure]) -> Option<String> {
    let figures = latencies(figures);
    // The very last ones would squeeze all others.
    let longest = figures.iter().map(|(_, all)| all.percentile(99.0)).reduce(f64::max)?;
    let step = step(longest);
    let end = (longest / step).ceil() * step;
    let place = |time: f64, share: f64| {
        let x = LEFT + (RIGHT - LEFT) * (time / end).min(1.0);
        (x, BOTTOM - (BOTTOM - TOP) * share)
    };
    let contenders = contenders(&figures);
    let mut svg = frame(title, &contenders);
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let (_, y) = place(0.0, percent / 100.0);
        svg.line("grid", (LEFT, y), (RIGHT, y));
        svg.text("small end", (LEFT - 6.0, y + 4.0), &format!("{percent} %"));
    }
    let mut tick = 0.0;
    while tick <= end {
        let (x, _) = place(tick, 0.0);
        svg.line("axis", (x, BOTTOM), (x, BOTTOM + 4.0));
        svg.text("small middle", (x, BOTTOM + 18.0), &tick.to_string());
        tick += step;
    }
    svg.text("small end", (RIGHT, BOTTOM + 36.0), "milliseconds");
    for (figure, summary) in &figures {
        let count = summary.count();
        let points = count.min(POINTS);
        let curve = (0..=points).map(|point| {
            let rank = (point * count / points).max(1);
            place(summary.sorted()[rank - 1], point as f64 / points as f64)
        });
        svg.curve(&format!("l{}", colour(&contenders, figure.contender)), curve);
    }
    svg.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    Some(svg.finish())
}

/// Title and legend.
fn frame(title: &str, contenders: &[&str]) -> Svg {
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    svg.text("title", (16.0, 26.0), title);
    for (number, name) in contenders.iter().enumerate() {
        let x = 16.0 + 140.0 * number as f64;
        svg.bar(&format!("s{}", number % COLOURS), (x, 38.0), 10.0, 10.0);
        svg.text("small", (x + 16.0, 47.0), name);
    }
    svg
}

fn latencies<'a>(figures: &[&'a Figure]) -> Vec<(&'a Figure, Summary)> {
    let figures = figures.iter().filter(|figure| figure.unit == MILLISECONDS);
    figures.filter_map(|figure| Some((*figure, figure.summary()?))).collect()
}

fn contenders<'a>(figures: &[(&'a Figure, Summary)]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (figure, _) in figures {
        if !names.contains(&figure.contender) {
            names.push(figure.contender);
        }
    }
    names
}

fn colour(contenders: &[&str], name: &str) -> usize {
    contenders.iter().position(|known| *known == name).unwrap_or(0) % COLOURS
}

/// A round length, of which a scale up to `longest` has some five.
fn step(longest: f64) -> f64 {
    let rough = (longest / 5.0).max(1.0);
    let decade = 10_f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| decade * round >= rough);
    decade * round.unwrap_or(10.0)
}

/// A logarithmic scale of whole decades.
struct Decades {
    low: i32,
    high: i32,
}

impl Decades {
    /// Nothing if there are no values.
    fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values {
            (least, most) = (least.min(value), most.max(value));
        }
        let low = least.log10().floor();
        (most > 0.0)
            .then_some(Self { low: low as i32, high: most.log10().ceil().max(low + 1.0) as i32 })
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|power| 10_f64.powi(power))
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([3.0, 47.0, 260.0, 1900.0].map(step), [1.0, 10.0, 100.0, 500.0]);
    }

    #[test]
    fn a_scale_holds_all_values() {
        let scale = Decades::over([4.0, 70.0].into_iter()).unwrap();
        assert_eq!(scale.ticks().collect::<Vec<_>>(), [1.0, 10.0, 100.0]);
        assert_eq!((scale.y(1.0), scale.y(100.0)), (BOTTOM, TOP));
        assert!(Decades::over(std::iter::empty()).is_none());
    }

    #[test]
    fn nothing_measured_is_no_plot() {
        assert!(bars("", &[]).is_none());
        assert!(shares("", &[]).is_none());
    }

    #[test]
    fn one_value_is_a_plot() {
        let figure = Figure::of(Section::Start, "this", "start").concurrency(1);
        let figure = Figure { values: vec![5.0], ..figure };
        for text in [bars("", &[&figure]).unwrap(), shares("", &[&figure]).unwrap()] {
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
