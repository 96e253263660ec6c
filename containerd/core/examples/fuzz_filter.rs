//! Throws broken filters at their parser, and looks for what must not happen: a
//! panic, an error that blames the daemon, a filter that takes for ever, or one
//! that matches the same object now and not then.
//!
//! ```text
//! cargo run -p containerd-core --example fuzz_filter -- [SECONDS [SEED]]
//! ```
//!
//! The same seed makes the same inputs.

// How inputs are made is the same for all parsers of text.
#[path = "../../images/examples/fuzz/mutate.rs"]
mod mutate;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use containerd_core::filter::{Adaptor, Filter, labels_field};
use mutate::{Corpus, Random};
use shim_protocol::ErrorKind;

/// Filters to begin with.
const SEEDS: [&str; 9] = [
    "name==foo",
    "name!=\"b\\u00e4r\\n\",labels.a.b",
    "labels.\"very.long/key\"~=/^v[0-9]+\\/x$/",
    "name~=|a\\|b|",
    "id",
    "labels.colour==blue,name~=^(a|b)*c{1,3}$",
    "labels.\"\\x41\\101\\U0001F600\"==\"\\'\"",
    "name~=\"(?i)[[:alpha:]]+\\\\d\"",
    "",
];
/// How many inputs are made between two looks at the clock.
const BATCH: u64 = 256;
/// Longest time that one input may take: far more than any needs.
const SLOW: Duration = Duration::from_secs(5);

/// An object with a name and labels.
struct Object {
    name: &'static str,
    labels: BTreeMap<String, String>,
}

impl Adaptor for Object {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.split_first()? {
            (first, []) if first == "name" => Some(self.name.into()),
            (first, rest) if first == "labels" => labels_field(&self.labels, rest),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| {
        arguments.get(at).map_or(Some(otherwise), |text| text.parse().ok())
    };
    let (Some(seconds), Some(seed)) = (number(0, 10), number(1, 1)) else {
        eprintln!("usage: fuzz_filter [SECONDS [SEED]]");
        return ExitCode::FAILURE;
    };
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let objects = [
        Object { name: "foo", labels: labels(&[("a.b", ""), ("colour", "blue")]) },
        Object { name: "b\u{e4}r\n", labels: labels(&[("very.long/key", "v1/x")]) },
        Object { name: "aabbc", labels: BTreeMap::new() },
    ];
    let (mut random, mut corpus) = (Random::new(seed), Corpus::new(&SEEDS));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut inputs, mut taken) = (0_u64, 0_u64);
    while Instant::now() < end {
        for _ in 0..BATCH {
            inputs += 1;
            let input = corpus.next(&mut random);
            let started = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| check(&input, &objects))) {
                Ok(Some(shape)) => {
                    taken += 1;
                    corpus.keep(shape, input);
                }
                Ok(None) => {}
                Err(_) => {
                    eprintln!("seed {seed}, input {inputs}: {}", input.escape_ascii());
                    return ExitCode::FAILURE;
                }
            }
            if started.elapsed() > SLOW {
                eprintln!("seed {seed}, input {inputs} took too long");
                return ExitCode::FAILURE;
            }
        }
    }
    let shapes = corpus.shapes();
    println!("{inputs} inputs in {seconds} seconds, {taken} taken, {shapes} shapes, nothing found");
    ExitCode::SUCCESS
}

/// Panics when a rule is broken; tells the shape of what was taken.
fn check(input: &[u8], objects: &[Object]) -> Option<u64> {
    // A request's strings are always UTF-8.
    let text = String::from_utf8_lossy(input);
    let filter = match Filter::parse(&[&text]) {
        Ok(filter) => filter,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
            return None;
        }
    };
    let matched: Vec<bool> = objects.iter().map(|object| filter.matches(object)).collect();
    let again: Vec<bool> = objects.iter().map(|object| filter.clone().matches(object)).collect();
    assert_eq!(matched, again);
    // With an empty one beside it, everything matches.
    let any = Filter::parse(&[text.as_ref(), ""]);
    assert!(any.is_ok_and(|any| objects.iter().all(|object| any.matches(object))));
    let mut hasher = DefaultHasher::new();
    let skeleton: Vec<char> = text.chars().filter(|c| !c.is_alphanumeric()).take(12).collect();
    (matched, skeleton).hash(&mut hasher);
    Some(hasher.finish())
}
