//! Throws broken input at the parsers of what comes from outside, and checks
//! what must hold of whatever they take.
//!
//! ```text
//! cargo run -p containerd-images --example fuzz -- TARGET [SECONDS [SEED]]
//! ```
//!
//! The same seed makes the same inputs. What breaks a rule is printed, with the
//! seed and the number of the input, and belongs into a test.

mod mutate;
mod targets;

use std::{
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::{Duration, Instant},
};

use mutate::{Corpus, Random};
use targets::TARGETS;

/// How many inputs are made between two looks at the clock.
const BATCH: u64 = 256;
/// Longest time that one input may take: far more than any needs, so that a
/// loop without end is seen and a busy machine is not.
const SLOW: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| {
        arguments.get(at).map_or(Some(otherwise), |text| text.parse().ok())
    };
    let target = arguments.first().and_then(|name| TARGETS.iter().find(|t| t.name == name));
    let (Some(target), Some(seconds), Some(seed)) = (target, number(1, 10), number(2, 1)) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: fuzz TARGET [SECONDS [SEED]]\ntargets: {}", names.join(" "));
        return ExitCode::FAILURE;
    };
    let mut random = Random::new(seed);
    let mut corpus = Corpus::new(target.seeds);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut inputs, mut taken) = (0_u64, 0_u64);
    let mut slowest = (Duration::ZERO, Vec::new());
    while Instant::now() < end {
        for _ in 0..BATCH {
            inputs += 1;
            let input = corpus.next(&mut random);
            let started = Instant::now();
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(&input)));
            let took = started.elapsed();
            if took > slowest.0 {
                slowest = (took, input.clone());
            }
            match outcome {
                Ok(Some(shape)) => {
                    taken += 1;
                    corpus.keep(shape, input);
                }
                Ok(None) => {}
                Err(_) => {
                    eprintln!("{}: seed {seed}, input {inputs}:", target.name);
                    eprintln!("{}", input.escape_ascii());
                    return ExitCode::FAILURE;
                }
            }
            if took > SLOW {
                eprintln!("{}: seed {seed}, input {inputs} took too long", target.name);
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "{}: {inputs} inputs in {seconds} seconds, {taken} taken, {} shapes, nothing found",
        target.name,
        corpus.shapes()
    );
    println!("the slowest took {:?}: {}", slowest.0, slowest.1.escape_ascii());
    ExitCode::SUCCESS
}
