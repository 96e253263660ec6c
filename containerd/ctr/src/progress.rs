//! How far a transfer has come: bars on a terminal, and lines elsewhere.

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use containerd_client::{OnProgress, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{output, units};

/// What goes on.
const MOVING: [&str; 3] = ["downloading", "uploading", "extracting"];

/// Shows how far a transfer has come, until it is told that it is done.
pub(crate) struct Display {
    shared: Arc<Mutex<Shown>>,
    start: Instant,
}

struct Shown {
    /// None where no terminal is.
    bars: Option<MultiProgress>,
    parts: HashMap<String, Part>,
}

struct Part {
    event: String,
    /// How much of it has come in this transfer, in bytes.
    moved: u64,
    bar: Option<ProgressBar>,
}

impl Display {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        let bars = io::stdout()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
        let shown = Shown { bars, parts: HashMap::new() };
        Self { shared: Arc::new(Mutex::new(shown)), start: Instant::now() }
    }

    /// What the transfer is to call.
    pub(crate) fn on_progress(&self) -> OnProgress {
        let shared = self.shared.clone();
        Arc::new(move |progress| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).show(progress)
        })
    }

    /// Shows how long it took, and how much came.
    pub(crate) fn done(self) -> io::Result<()> {
        let shown = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bars) = &shown.bars {
            for bar in shown.parts.values().filter_map(|part| part.bar.as_ref()) {
                bar.abandon();
            }
            bars.set_move_cursor(false);
        }
        output::line(summary(
            shown.parts.values().map(|part| part.moved).sum(),
            self.start.elapsed(),
        ))
    }
}

impl Shown {
    fn show(&mut self, progress: Progress) {
        let name = name(&progress).to_owned();
        let is_moving = MOVING.contains(&progress.event.as_str());
        let part = self.parts.entry(name.clone());
        let part = part.or_insert_with(|| Part { event: String::new(), moved: 0, bar: None });
        if progress.event == "downloading" || progress.event == "uploading" {
            part.moved = part.moved.max(progress.done);
        } else if progress.event == "complete" {
            // It may have come faster than is told.
            part.moved = part.moved.max(progress.total);
        }
        let changed = part.event != progress.event;
        if changed {
            part.event.clone_from(&progress.event);
        }
        match &self.bars {
            Some(bars) => {
                let bar = part.bar.get_or_insert_with(|| bars.add(ProgressBar::no_length()));
                if changed {
                    bar.set_style(style(is_moving && progress.total > 0));
                    bar.set_prefix(short_name(&name));
                    bar.set_message(progress.event);
                }
                if progress.total > 0 {
                    bar.set_length(progress.total);
                    bar.set_position(progress.done);
                }
                bar.tick();
            }
            // Who reads it is told by the end of the transfer if it went wrong.
            None if changed => drop(output::line(format_args!("{name}:\t{}", progress.event))),
            None => {}
        }
    }
}

/// What a part is called; the transfer itself by what happens to it.
fn name(progress: &Progress) -> &str {
    if progress.name.is_empty() { "transfer" } else { &progress.name }
}

/// A name with no more of a digest than people compare: `layer (2c26b46b68ff)`.
fn short_name(name: &str) -> String {
    let parts = name.split('-').map(|part| match part.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 => format!("({})", &hex[..12]),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(" ").chars().take(40).collect()
}

fn style(with_bar: bool) -> ProgressStyle {
    let template = match with_bar {
        true => "{prefix:40} {msg:11} |{bar:40}| {bytes:>10}/{total_bytes} ({bytes_per_sec})",
        false => "{prefix:40} {msg}",
    };
    // The template is a constant; should it be wrong, bars look otherwise.
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("+>-")
}

fn summary(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "one decimal is shown"
    )]
    let rate = if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 };
    let (total, rate) = (units::binary(bytes), units::binary(rate));
    format!("elapsed: {seconds:.1}s\ttotal: {total}\t({rate}/s)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_bytes_and_speed() {
        let text = summary(3 << 20, Duration::from_secs(2));
        assert_eq!(text, "elapsed: 2.0s\ttotal: 3.0 MiB\t(1.5 MiB/s)");
        assert_eq!(summary(0, Duration::ZERO), "elapsed: 0.0s\ttotal: 0.0 B\t(0.0 B/s)");
    }

    #[test]
    fn what_moved_in_this_transfer_is_counted() {
        let mut shown = Shown { bars: None, parts: HashMap::new() };
        let digest = "0".repeat(64);
        let progress = |event: &str, done, total| Progress {
            event: event.into(),
            name: format!("layer-sha256:{digest}"),
            parents: Vec::new(),
            done,
            total,
            descriptor: None,
        };
        for (event, done) in
            [("waiting", 0), ("downloading", 3), ("complete", 10), ("extracting", 0)]
        {
            shown.show(progress(event, done, 10));
        }
        let part = &shown.parts[name(&progress("", 0, 0))];
        assert_eq!((part.moved, part.event.as_str()), (10, "extracting"));
        assert_eq!(short_name(name(&progress("", 0, 0))), "layer (000000000000)");
    }
}
