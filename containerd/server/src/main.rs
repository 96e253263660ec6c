//! The container daemon.
//!
//! ```text
//! cli → config → App (bound) → Running → drained
//! ```
//!
//! This crate connects the core to the world: gRPC for clients ([`services`]),
//! ttrpc for shims ([`ttrpc`]), signals and systemd. It makes no decision
//! about containers; that is `containerd_core`'s part.

mod app;
mod assembly;
mod authority;
mod cgroup;
mod check;
mod cli;
mod config;
mod host;
mod http;
mod identity;
mod logging;
mod metrics;
mod notify;
mod plugins;
mod proxy;
mod publish;
mod rest;
mod services;
mod signals;
mod snapshotters;
mod socket;
mod status;
mod sys;
mod ttrpc;

use std::{
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use nix::sys::stat::{Mode, umask};
use shim_protocol::{Context, Result};
use tokio::runtime::{Builder, Runtime};

use crate::{
    app::{App, Running},
    cli::{Cli, Command, ConfigCommand, REVISION, VERSION},
    config::Config,
    notify::{State, notify},
    signals::{Signals, Wish},
};

/// Threads that answer requests. Most of the work is waiting for shims.
const WORKERS: usize = 2;

/// Threads for what blocks, such as the disk.
const BLOCKING_THREADS: usize = 16;

/// How long work that blocks may go on once all else has ended.
const LAST_WORK_DEADLINE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("containerd: {}", e.report());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if cli.version {
        println!("containerd {} {VERSION} {REVISION}", env!("CARGO_PKG_NAME"));
        return Ok(());
    }
    match &cli.command {
        None => daemon(&cli),
        Some(Command::Check(how)) => {
            let (config, _) = Config::load(cli.config_file().as_deref(), cli.overrides())?;
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.context("start", "the runtime")?.block_on(check::run(&config, *how))
        }
        Some(Command::Config(ConfigCommand::Default)) => {
            let (config, _) = Config::load(None, cli.overrides())?;
            print!("{}", config.to_toml());
            Ok(())
        }
        Some(Command::Config(ConfigCommand::Dump)) => {
            let (config, warnings) = Config::load(cli.config_file().as_deref(), cli.overrides())?;
            warnings.iter().for_each(|warning| eprintln!("{warning}"));
            print!("{}", config.to_toml());
            Ok(())
        }
        Some(Command::Publish { topic, namespace }) => {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("start", "the runtime")?;
            runtime.block_on(publish::publish(&cli.daemon_address(), topic.clone(), namespace))
        }
    }
}

/// Runs the daemon until a signal ends it.
fn daemon(cli: &Cli) -> Result<()> {
    let started = Instant::now();
    sys::limit_allocator();
    // What is made with a wider mode gets it explicitly. SIGPIPE is ignored
    // already: Rust's runtime sees to that.
    umask(Mode::from_bits_truncate(0o022));
    let (config, warnings) = Config::load(cli.config_file().as_deref(), cli.overrides())?;
    logging::start(config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Some(temp) = &config.temp {
        sys::set_temp_dir(temp);
    }
    tracing::info!(revision = REVISION, version = VERSION, "starting containerd");
    let runtime = runtime().context("start", "the runtime")?;
    let outcome = runtime.block_on(serve(config, started));
    runtime.shutdown_timeout(LAST_WORK_DEADLINE);
    outcome
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
}

async fn serve(config: Config, started: Instant) -> Result<()> {
    // Before anything is bound, so that a signal during boot is not lost.
    let mut signals = Signals::new()?;
    let app = tokio::select! {
        app = App::bind(config) => app?,
        () = signals.end() => return Ok(()),
    };
    // Cut off here, unfinished work is recovered at the next boot.
    let mut running = tokio::select! {
        running = app.start() => running?,
        () = signals.end() => return Ok(()),
    };
    tell(State::Ready);
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!("containerd successfully booted in {seconds:.6}s");
    let outcome = supervise(&mut running, &mut signals).await;
    tell(State::Stopping);
    if running.drain().await {
        tracing::info!("containerd has stopped");
    } else {
        tracing::warn!("containerd has stopped with requests under way");
    }
    outcome
}

/// Waits for a reason to end.
async fn supervise(running: &mut Running, signals: &mut Signals) -> Result<()> {
    loop {
        let wish = tokio::select! {
            error = running.failed() => return Err(error),
            wish = signals.next() => wish,
        };
        match wish {
            Wish::End => return Ok(()),
            Wish::Dump => running.dump().await,
        }
    }
}

fn tell(state: State) {
    if let Err(e) = notify(state) {
        tracing::warn!(error = %e, "systemd could not be told {state:?}");
    }
}
