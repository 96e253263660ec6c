//! The shim's log: one line for each event in the manner of logrus, which is
//! what daemons expect on a shim's `log` FIFO (containerd,
//! `core/runtime/v2/shim_unix.go`).
//!
//! A full `tracing-subscriber` would be a fifth of the shim's memory.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

/// Logs to standard error from now on.
pub fn init(debug: bool) {
    let max = if debug { Level::DEBUG } else { Level::INFO };
    // Fails when a log was set before, which is then the one that is wanted.
    let _ = tracing::subscriber::set_global_default(Lines { max, is_own: false, file: None });
}

/// Logs what this program says from now on, and not what its libraries say.
pub(crate) fn init_own(debug: bool, file: Option<(File, Format)>) {
    let max = if debug { Level::DEBUG } else { Level::INFO };
    let _ = tracing::subscriber::set_global_default(Lines { max, is_own: true, file });
}

/// Are debug messages logged, too?
pub(crate) fn is_debug() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG
}

/// What a line of a log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `key=value`, as logrus has it.
    Text,
    /// An object.
    Json,
}

impl Format {
    /// A line, with its end; `fields` are more of `key=value`.
    pub(crate) fn line(self, level: &str, message: &str, fields: &str) -> String {
        let time = Rfc3339(SystemTime::now()).to_string();
        match self {
            Self::Text => format!("time=\"{time}\" level={level} msg={message:?}{fields}\n"),
            Self::Json => {
                let message = format!("{message}{fields}");
                format!("{}\n", json!({"level": level, "msg": message, "time": time}))
            }
        }
    }
}

/// Logs nothing from now on: standard error is about to become somebody else's.
pub(crate) fn fall_silent() {
    SILENT.store(true, Ordering::Relaxed);
}

static SILENT: AtomicBool = AtomicBool::new(false);

/// Writes events, ignores spans.
struct Lines {
    max: Level,
    /// Only those of this crate.
    is_own: bool,
    /// Instead of standard error.
    file: Option<(File, Format)>,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= self.max
            && (!self.is_own || metadata.target().starts_with(env!("CARGO_CRATE_NAME")))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.max))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        // Which events are enabled is remembered for each place in the code.
        if SILENT.load(Ordering::Relaxed) {
            return;
        }
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut line = Line::default();
        event.record(&mut line);
        let format = self.file.as_ref().map_or(Format::Text, |(_, format)| *format);
        let line = format.line(level, &line.message, &line.fields);
        // In one write, so that lines of several shims do not mix. When nobody
        // reads the log and the FIFO is full, the line is lost: a container
        // must not wait for a reader.
        let _ = match &self.file {
            Some((file, _)) => (&mut &*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// A time as RFC 3339 has it, in UTC with nanoseconds.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_nanos()
        )
    }
}

/// The date so many days after 1970-01-01, counted in eras of 400 years that
/// begin in March, so that the leap day is the last one of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year_of_era, month + 3),
        _ => (year_of_era + 1, month - 9),
    };
    (era * 400 + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000000007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, 7);
            assert_eq!(Rfc3339(time).to_string(), text);
        }
    }
}
