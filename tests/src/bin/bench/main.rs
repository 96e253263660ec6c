//! Benchmarks daemons: ours beside Debian's in one run, or one that runs
//! already. `hack/bench` builds what it needs.
//!
//! All contenders take turns in each section, so that whatever else the machine
//! does meets each of them. docs/performance.md says what is measured.

mod cycles;
mod exec;
mod floor;
mod machine;
mod plots;
mod report;
mod residents;
mod svg;
mod tables;
mod targets;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use machine::Machine;
use report::Report;
use targets::{Contender, Field};

/// What can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Section {
    /// Record, create, start, exit, delete, at several concurrencies
    Lifecycle,
    /// The same work done by nothing but system calls
    Floor,
    /// The lifecycle with several OCI runtimes under our daemon
    Runtimes,
    /// `true` in a running container
    Exec,
    /// The start of many containers that stay
    Start,
    /// What shims and the daemon take with these
    Memory,
    /// SIGKILL and start of the daemon with these
    Restart,
    /// The end of all of these at once
    Exits,
}

/// Measures container daemons beside each other
#[derive(Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// Sections to measure instead of all of them
    sections: Vec<Section>,
    /// Cycles, execs and containers in each section, instead of what each has by itself
    #[arg(long)]
    count: Option<usize>,
    /// Turns that each contender takes in a section, and restarts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Concurrencies of the lifecycle
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 10, 32])]
    concurrency: Vec<usize>,
    /// Measures the daemon at this socket, and starts none
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Runtime of that daemon
    #[arg(long, default_value = "io.containerd.runc.v2", requires = "address")]
    runtime: String,
    /// OCI runtime of that runtime (`BinaryName` in its options)
    #[arg(long, requires = "address")]
    binary_name: Option<String>,
    /// Writes every figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes plots into this folder
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
}

/// What all sections work with.
pub(crate) struct Bench {
    /// As the user wants it.
    pub(crate) options: Options,
    /// What came out so far.
    pub(crate) report: Report,
    field: Field,
}

impl Bench {
    fn wants(&self, section: Section) -> bool {
        self.options.sections.is_empty() || self.options.sections.contains(&section)
    }

    /// How many of something a section does.
    fn count(&self, usual: usize) -> usize {
        self.options.count.unwrap_or(usual)
    }

    /// `count` shared out to the rounds, none of which is empty.
    fn rounds(&self, count: usize) -> Vec<usize> {
        let rounds = self.options.rounds.min(count);
        (0..rounds).map(|round| count / rounds + usize::from(round < count % rounds)).collect()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.count != Some(0) && options.rounds > 0, "nothing to do: a count of 0");
    ensure!(!options.concurrency.contains(&0), "nothing to do: a concurrency of 0");
    allow_many_files()?;
    let field = Field::new(&options)?;
    let report = Report::new(Machine::look(), &options);
    let mut bench = Bench { options, report, field };
    let result = measure(&mut bench).await;
    // What there is of a run that failed later on is worth having all the same.
    print!("{}", tables::markdown(&bench.report));
    let written = write(&bench);
    result.and(written)
}

async fn measure(bench: &mut Bench) -> Result<()> {
    if bench.wants(Section::Lifecycle) {
        let concurrency = bench.options.concurrency.clone();
        cycles::measure(bench, Section::Lifecycle, &concurrency).await.context("lifecycle")?;
    }
    if bench.wants(Section::Floor) {
        floor::measure(bench).await.context("floor")?;
    }
    if bench.wants(Section::Runtimes) {
        if bench.options.address.is_some() {
            bench
                .report
                .skip(Section::Runtimes, "of a daemon that runs already only one is measured");
        } else {
            cycles::measure(bench, Section::Runtimes, &[1, 10]).await.context("runtimes")?;
        }
    }
    if bench.wants(Section::Exec) {
        exec::measure(bench).await.context("exec")?;
    }
    residents::measure(bench).await.context("residents")
}

/// The contenders of a section.
fn contenders(bench: &mut Bench, section: Section) -> Vec<Contender> {
    if bench.options.address.is_some() {
        return vec![Contender::running(&bench.options)];
    }
    if section != Section::Runtimes {
        return Contender::DAEMONS.to_vec();
    }
    let mut contenders = Contender::RUNTIMES.to_vec();
    if let Some(reason) = tests::obstacle_to_crun() {
        contenders.retain(|contender| !contender.needs_crun());
        bench.report.note(format!("without crun: {reason}"));
    }
    contenders
}

fn write(bench: &Bench) -> Result<()> {
    if let Some(path) = &bench.options.json {
        let text = serde_json::to_string_pretty(&bench.report.to_json())?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    if let Some(folder) = &bench.options.svg {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for (name, text) in plots::all(&bench.report) {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// A daemon has a descriptor or more for each container, and gets our limit.
fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}
