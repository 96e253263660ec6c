//! The daemon's log on standard error, in the two formats that people's tools
//! for containerd know: logrus' text and logrus' JSON.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Crates whose messages have the level that was asked for. What the others
/// say below a warning is about HTTP/2 frames, and only traced.
const OURS: [&str; 4] = ["containerd", "containerd_core", "runtime_v2", "shim_protocol"];

/// Starts logging. The first call in a process counts.
pub(crate) fn start(log: Log) {
    let others =
        if log.level == LevelFilter::TRACE { log.level } else { log.level.min(LevelFilter::WARN) };
    let filter =
        Targets::new().with_default(others).with_targets(OURS.map(|target| (target, log.level)));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Logrus(log.format));
    // It fails when there is a subscriber already, which is then as good.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}

/// Writes events the way logrus does.
struct Logrus(LogFormat);

impl<S, N> FormatEvent<S, N> for Logrus
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let time = Time(SystemTime::now()).to_string();
        let level = level_name(*event.metadata().level());
        match self.0 {
            LogFormat::Text => line.write_text(&mut writer, &time, level),
            LogFormat::Json => line.write_json(&mut writer, time, level),
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warning",
        Level::ERROR => "error",
    }
}

/// One message and its fields, in the order in which they were given.
#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.fields.push((name, value.to_owned())),
        }
    }
}

impl Line {
    fn write_text(&self, writer: &mut impl fmt::Write, time: &str, level: &str) -> fmt::Result {
        write!(writer, "time={time:?} level={level} msg={}", Text(&self.message))?;
        for (name, value) in &self.fields {
            write!(writer, " {name}={}", Text(value))?;
        }
        writer.write_char('\n')
    }

    fn write_json(self, writer: &mut impl fmt::Write, time: String, level: &str) -> fmt::Result {
        let mut object = serde_json::Map::new();
        for (name, value) in self.fields {
            // logrus moves fields that have a name of its own out of the way, too.
            let name = match name {
                "level" | "msg" | "time" => format!("fields.{name}"),
                name => name.to_owned(),
            };
            object.insert(name, value.into());
        }
        object.insert("level".into(), level.into());
        object.insert("msg".into(), self.message.into());
        object.insert("time".into(), time.into());
        writeln!(writer, "{}", serde_json::Value::Object(object))
    }
}

/// A value, in quotation marks if it needs them (logrus, `needsQuoting`).
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
        if !self.0.is_empty() && self.0.bytes().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

/// A moment in UTC as RFC 3339 has it, to the nanosecond.
struct Time(SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = date(since.as_secs() / 86_400);
        let second = since.as_secs() % 86_400;
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

/// Year, month and day of a day since 1970-01-01. Counts in years that begin
/// in March, so that the leap day is the last one, and in eras of 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line() -> Line {
        Line {
            message: "starting containerd".into(),
            fields: vec![
                ("id", "a/b.c".into()),
                ("error", "no \"x\"\n".into()),
                ("time", "".into()),
            ],
        }
    }

    #[test]
    fn text_as_logrus_writes_it() {
        let mut text = String::new();
        line().write_text(&mut text, "2026-08-01T00:00:00Z", "info").unwrap();
        assert_eq!(
            text,
            "time=\"2026-08-01T00:00:00Z\" level=info msg=\"starting containerd\" id=a/b.c \
             error=\"no \\\"x\\\"\\n\" time=\"\"\n"
        );
    }

    #[test]
    fn json_as_logrus_writes_it() {
        let mut text = String::new();
        line().write_json(&mut text, "2026-08-01T00:00:00Z".into(), "info").unwrap();
        assert_eq!(
            text,
            "{\"error\":\"no \\\"x\\\"\\n\",\"fields.time\":\"\",\"id\":\"a/b.c\",\
             \"level\":\"info\",\"msg\":\"starting containerd\",\"time\":\"2026-08-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000001Z"),
            (951_782_399, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000001Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000000001Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000001Z"),
        ] {
            let time = Time(UNIX_EPOCH + Duration::new(seconds, 1));
            assert_eq!(time.to_string(), expected);
        }
    }
}
