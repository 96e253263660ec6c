//! Inputs: what was taken before, with something broken in it.

use std::collections::HashSet;

/// Longest input, in bytes.
const INPUT_MAX_BYTES: usize = 4096;
/// Most inputs that are remembered.
const CORPUS_MAX: usize = 4096;
/// Bytes that mean something to one of the parsers.
const TELLING: &[u8] = b"\0\t\n\r \"#%'()*+,-./:;<=>?@[\\]_`{}~0123456789aAvVzZ\x7f\x80\xc3\xff";

/// Numbers that look random (xorshift64*); the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Nought would stay nought.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap_or_default() % end.max(1)
    }
}

/// Inputs to begin with, and those that led to something new.
pub(crate) struct Corpus {
    inputs: Vec<Vec<u8>>,
    /// Words of the seeds, to be put together in other ways.
    words: Vec<Vec<u8>>,
    seen: HashSet<u64>,
}

impl Corpus {
    pub(crate) fn new(seeds: &[&str]) -> Self {
        let inputs = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
        let mut words = HashSet::new();
        for seed in seeds {
            for word in seed.split_inclusive(|c: char| !c.is_alphanumeric()) {
                words.insert(word.as_bytes().to_vec());
            }
        }
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort();
        Self { inputs, words, seen: HashSet::new() }
    }

    /// How many different sorts of input were taken.
    pub(crate) fn shapes(&self) -> usize {
        self.seen.len()
    }

    /// Remembers an input that was taken, if none of its shape was before.
    pub(crate) fn keep(&mut self, shape: u64, input: Vec<u8>) {
        if self.inputs.len() < CORPUS_MAX && self.seen.insert(shape) {
            self.inputs.push(input);
        }
    }

    /// Makes another input.
    pub(crate) fn next(&self, random: &mut Random) -> Vec<u8> {
        let mut input = self.inputs[random.below(self.inputs.len())].clone();
        // Most often a little is broken, sometimes much.
        let changes = 1 << random.below(5);
        for _ in 0..random.below(changes) + 1 {
            self.change(&mut input, random);
        }
        input.truncate(INPUT_MAX_BYTES);
        input
    }

    fn change(&self, input: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(16)).min(input.len());
        let telling = TELLING[random.below(TELLING.len())];
        match random.below(11) {
            0 => input.insert(at, telling),
            1 => drop(input.drain(at..end)),
            2 => input.truncate(at),
            3 if at < input.len() => input[at] = telling,
            4 if at < input.len() => input[at] ^= 1 << random.below(8),
            5 => {
                let piece: Vec<u8> = input[at..end].to_vec();
                let times = random.below(8);
                input.splice(at..at, piece.repeat(times));
            }
            6 => {
                let word = self.words[random.below(self.words.len())].clone();
                input.splice(at..at, word);
            }
            7 => {
                let word = self.words[random.below(self.words.len())].clone();
                input.splice(at..end, word);
            }
            8 => {
                // The head of one and the tail of another.
                let other = &self.inputs[random.below(self.inputs.len())];
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            9 => {
                input.splice(at..at, std::iter::repeat_n(telling, random.below(200))).for_each(drop)
            }
            _ => input.extend_from_slice(&[telling]),
        }
    }
}
