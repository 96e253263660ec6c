//! Figures in the log, in the blocks that the first containerd wrote.

use std::time::Duration;

use containerd_core::telemetry::Measured;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Sources,
    own::{self, Figures},
};

/// Writes figures to the log, again and again.
pub(crate) struct Log(JoinHandle<()>);

impl Log {
    /// Begins, unless `every` is zero, and goes on until `stop` is set.
    pub(crate) fn start(
        every: Duration,
        sources: Sources,
        stop: CancellationToken,
    ) -> Option<Self> {
        if every.is_zero() {
            return None;
        }
        Some(Self(tokio::spawn(async move {
            let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => write(&sources).await,
                    () = stop.cancelled() => break,
                }
            }
        })))
    }

    /// Waits for its end; `stop` must be set.
    pub(crate) async fn shutdown(self) {
        if let Err(panic) = self.0.await {
            tracing::error!(error = %panic, "figures in the log ended in a panic");
        }
    }
}

async fn write(sources: &Sources) {
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let sources = sources.clone();
    match tokio::task::spawn_blocking(move || own::read(&sources, alive)).await {
        Ok(figures) => lines(&figures).iter().for_each(|line| tracing::info!("{line}")),
        Err(panic) => tracing::error!(error = %panic, "figures ended in a panic"),
    }
}

/// In the order of their names, as `go-metrics` writes them (`log.go`).
fn lines(figures: &Figures) -> Vec<String> {
    let mut lines = timer("container-start-time", &figures.starts);
    let mut counter = |name: &str, count: u64| {
        lines.push(format!("counter {name}"));
        lines.push(format!("  count:       {count:>9}"));
    };
    counter("containers", figures.containers as u64);
    counter("events", figures.events);
    counter("events-subscribers", figures.subscribers as u64);
    for (name, value) in [("fds", figures.descriptors), ("tasks", figures.tasks)] {
        lines.push(format!("gauge {name}"));
        lines.push(format!("  value:       {value:>9}"));
    }
    lines
}

fn timer(name: &str, measured: &Measured) -> Vec<String> {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut lines = vec![format!("timer {name}"), format!("  count:       {:>9}", measured.count)];
    let [median, three_quarters, most, nearly_all, all_but_one] =
        measured.percentiles.map(|(_, duration)| duration);
    for (label, duration) in [
        ("min:", measured.min),
        ("max:", measured.max),
        ("mean:", measured.mean),
        ("stddev:", measured.deviation),
        ("median:", median),
        ("75%:", three_quarters),
        ("95%:", most),
        ("99%:", nearly_all),
        ("99.9%:", all_but_one),
    ] {
        lines.push(format!("  {label:<12} {:>12.2}ms", milliseconds(duration)));
    }
    let [one, five, fifteen] = measured.rates;
    for (label, rate) in [
        ("1-min rate:", one),
        ("5-min rate:", five),
        ("15-min rate:", fifteen),
        ("mean rate:", measured.mean_rate),
    ] {
        lines.push(format!("  {label:<12} {rate:>12.2}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_as_in_2015() {
        let ms = Duration::from_millis;
        let starts = Measured {
            count: 1000,
            min: ms(23),
            max: ms(355),
            mean: ms(78),
            deviation: ms(34),
            percentiles: [
                (500, ms(73)),
                (750, ms(91)),
                (950, ms(123)),
                (990, ms(287)),
                (999, ms(355)),
            ],
            rates: [1.5, 0.25, 0.0],
            mean_rate: 12.0,
            ..Measured::default()
        };
        let figures = Figures { starts, containers: 7, descriptors: 31, ..Figures::default() };
        let text = lines(&figures).join("\n");
        let wanted = "\
timer container-start-time
  count:            1000
  min:                23.00ms
  max:               355.00ms
  mean:               78.00ms
  stddev:             34.00ms
  median:             73.00ms
  75%:                91.00ms
  95%:               123.00ms
  99%:               287.00ms
  99.9%:             355.00ms
  1-min rate:          1.50
  5-min rate:          0.25
  15-min rate:         0.00
  mean rate:          12.00
counter containers
  count:               7
counter events
  count:               0
counter events-subscribers
  count:               0
gauge fds
  value:              31
gauge tasks
  value:               0";
        assert_eq!(text, wanted);
    }
}
