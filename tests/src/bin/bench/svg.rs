//! Pictures as text: as much of SVG as plots need.

use std::fmt::Write;

/// Colours of the marks, by class. Reading programs choose by what the reader
/// prefers; the card brings its own background, so that it is readable wherever
/// it is put.
const STYLE: &str = "\
text{font:13px sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}\
.small{font-size:11px}.end{text-anchor:end}.middle{text-anchor:middle}\
.card{fill:#fff}.grid{stroke:#d8dee4}.axis{stroke:#57606a}.whisker{stroke:#24292f}\
.s0{fill:#2f6fde}.s1{fill:#d9822b}.s2{fill:#7a828c}.s3{fill:#2e9e6b}\
.l0{stroke:#2f6fde}.l1{stroke:#d9822b}.l2{stroke:#7a828c}.l3{stroke:#2e9e6b}\
polyline{fill:none;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.card{fill:#0d1117}.grid{stroke:#30363d}\
.axis{stroke:#8b949e}.whisker{stroke:#e6edf3}.s0{fill:#5b93f5}.l0{stroke:#5b93f5}\
.s1{fill:#e8a15a}.l1{stroke:#e8a15a}.s2{fill:#9aa3ad}.l2{stroke:#9aa3ad}\
.s3{fill:#4fc28d}.l3{stroke:#4fc28d}}";

/// How many series have a colour of their own.
pub(crate) const COLOURS: usize = 4;

/// A picture that is being drawn. Lengths are in its own units, from the corner
/// at the top left.
pub(crate) struct Svg(String);

impl Svg {
    /// An empty card; `title` is what those hear who do not see it.
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n\
             <rect class=\"card\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n",
            escape(title)
        ))
    }

    /// A line between two points.
    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.0,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    /// A filled box from its corner at the top left.
    pub(crate) fn bar(&mut self, class: &str, (x, y): (f64, f64), width: f64, height: f64) {
        let _ = writeln!(
            self.0,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"/>"
        );
    }

    /// Words that begin at a point, or as `class` has it.
    pub(crate) fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        let _ = writeln!(self.0, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    /// A line through all points.
    pub(crate) fn curve(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let _ = write!(self.0, "<polyline class=\"{class}\" points=\"");
        for (x, y) in points {
            let _ = write!(self.0, "{x:.1},{y:.1} ");
        }
        self.0 += "\"/>\n";
    }

    /// The text of the file.
    pub(crate) fn finish(mut self) -> String {
        self.0 += "</svg>\n";
        self.0
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_no_markup() {
        let mut svg = Svg::new(10.0, 10.0, "a < b & c");
        svg.text("small", (1.0, 2.0), "<script>");
        let text = svg.finish();
        assert!(text.contains("<title>a &lt; b &amp; c</title>"), "{text}");
        assert!(text.contains(">&lt;script&gt;</text>"), "{text}");
        assert!(text.ends_with("</svg>\n"));
    }
}
