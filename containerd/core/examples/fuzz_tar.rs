//! Unpacks archives that were damaged at random, and looks whether something
//! happens that must not: a panic, an error that blames the daemon, or a change
//! outside of the folder.
//!
//! ```text
//! cargo run -p containerd-core --example fuzz_tar -- --seconds 600 [--seed 1]
//! ```
//!
//! Needs root, and GNU tar for what it begins with. A seed and a number of the
//! round tell how to do it again; `--round` does that round alone.

use std::{
    env, fs,
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use containerd_core::diff::unpack;
use shim_protocol::ErrorKind;

const BLOCK: usize = 512;

/// Numbers that look random and are not (xorshift64).
struct Random(u64);

impl Random {
    fn new(seed: u64, round: u64) -> Self {
        let mut this = Self((seed ^ round.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            this.next();
        }
        this
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.next() >> 16) % end.max(1) as u64).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

fn main() -> ExitCode {
    let options: Vec<String> = env::args().skip(1).collect();
    let option = |name: &str| {
        let at = options.iter().position(|word| word == name)?;
        options.get(at + 1)?.parse::<u64>().ok()
    };
    let seed = option("--seed").unwrap_or(1);
    let seconds = Duration::from_secs(option("--seconds").unwrap_or(60));
    let place = tempfile_in(Path::new("/dev/shm"));
    let corpus = corpus(&place);
    let (started, mut failed) = (Instant::now(), 0);
    let (mut round, mut good) = (option("--round").unwrap_or(0), 0_u64);
    while started.elapsed() < seconds {
        let archive = damage(&corpus, &mut Random::new(seed, round));
        match attempt(&place, archive) {
            Ok(unpacked) => good += u64::from(unpacked),
            Err(text) => {
                println!("seed {seed}, round {round}: {text}");
                failed += 1;
            }
        }
        round += 1;
        if option("--round").is_some() || failed == 20 {
            break;
        }
    }
    println!("{round} rounds, {good} unpacked to their end, {failed} failed");
    let _ = fs::remove_dir_all(&place);
    ExitCode::from(u8::from(failed > 0))
}

fn tempfile_in(folder: &Path) -> PathBuf {
    let path = folder.join(format!("fuzz-tar-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a folder");
    path
}

/// Archives of one tree in several formats.
fn corpus(place: &Path) -> Vec<Vec<u8>> {
    let script = "
        mkdir -p tree/a/b tree/.x && cd tree
        echo text > a/f; ln a/f a/b/h; ln -s ../../f a/b/l; ln -s a d; mkfifo p
        mknod null c 1 3; mknod a/loop b 7 0; chmod 4755 a/f; chown 1000:2000000 a
        printf x > a/.wh.gone; printf x > .x/.wh..wh..opq; printf '' > .wh.f
        n=$(printf %0150d 0); echo long > a/$n; ln -s $n a/long
        truncate -s 3M s; printf data | dd of=s bs=1 seek=1000000 conv=notrunc 2> /dev/null
        head -c 70000 /dev/urandom > big
    ";
    let run = |folder: &Path, script: &str| {
        let status = Command::new("sh").arg("-ec").arg(script).current_dir(folder).status();
        assert!(status.expect("sh").success(), "{script}");
    };
    run(place, script);
    let mut archives = Vec::new();
    for format in [
        "--format=gnu",
        "--format=gnu --sparse",
        "--format=pax --xattrs",
        "--format=pax --sparse --sparse-version=0.0",
        "--format=pax --sparse --sparse-version=0.1",
        "--format=pax --sparse --sparse-version=1.0",
        "--format=oldgnu --sparse",
    ] {
        run(place, &format!("tar {format} -C tree --sort=name -cf archive ."));
        archives.push(fs::read(place.join("archive")).expect("an archive"));
    }
    fs::remove_dir_all(place.join("tree")).expect("the tree");
    archives
}

/// Is it a header?
fn is_header(block: &[u8]) -> bool {
    block[257..262] == *b"ustar"
}

fn mend(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

const NAMES: [&str; 22] = [
    "..",
    "/",
    "a/..",
    "../canary",
    "/canary",
    "a/../../canary",
    ".wh..",
    ".wh...",
    ".wh.",
    ".wh.a",
    "a/.wh..wh..opq",
    ".wh..wh..opq",
    ".wh..wh.aufs",
    "d/x",
    "d",
    "a",
    "p/x",
    "null/x",
    "d/.wh.b",
    "",
    "a/b/l/x",
    "l",
];

fn damage(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut archive = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        let blocks = archive.len() / BLOCK;
        if blocks == 0 {
            break;
        }
        let at = random.below(blocks) * BLOCK;
        match random.below(12) {
            0 => {
                let byte = random.below(archive.len());
                archive[byte] = random.byte();
            }
            1 => archive.truncate(random.below(archive.len())),
            2 => {
                let other = random.below(blocks) * BLOCK;
                let block = archive[other..other + BLOCK].to_owned();
                archive.splice(at..at, block);
            }
            3 => drop(archive.drain(at..at + BLOCK)),
            4 => {
                let donor = &corpus[random.below(corpus.len())];
                let from = random.below(donor.len() / BLOCK) * BLOCK;
                let length = (random.below(20) * BLOCK).min(donor.len() - from);
                archive.splice(at..at, donor[from..from + length].iter().copied());
            }
            _ => {
                let headers: Vec<usize> = (0..blocks)
                    .map(|block| block * BLOCK)
                    .filter(|at| is_header(&archive[*at..at + BLOCK]))
                    .collect();
                if headers.is_empty() {
                    continue;
                }
                let at = headers[random.below(headers.len())];
                let block = &mut archive[at..at + BLOCK];
                change(block, random);
                mend(block);
                // Records of the header before belong to it.
                if random.below(3) == 0 && at >= BLOCK {
                    let byte = at - BLOCK + random.below(200);
                    archive[byte] = b"0123456789=\n \0x"[random.below(15)];
                }
            }
        }
    }
    archive
}

/// Changes a field of a header.
fn change(block: &mut [u8], random: &mut Random) {
    let mut name = |at: usize, random: &mut Random| {
        block[at..at + 100].fill(0);
        let name = NAMES[random.below(NAMES.len())].as_bytes();
        block[at..at + name.len()].copy_from_slice(name);
    };
    match random.below(9) {
        0 | 1 => name(0, random),
        2 | 3 => name(157, random),
        4 => block[156] = b"01234567gxLKSDMVNA\0"[random.below(19)],
        5 => {
            let size = [0, 1, 511, 512, 513, 4096, 1 << 20, (1 << 20) + 1, u64::from(u32::MAX)];
            let size = format!("{:011o}", size[random.below(9)]);
            block[124..135].copy_from_slice(size.as_bytes());
        }
        6 => {
            let at = [100, 108, 116, 124, 136, 329, 337, 345, 386, 482, 483][random.below(11)];
            block[at] = [0x80, 0xff, 0xc0, 0, b'7', b'9', b' ', 1][random.below(8)];
        }
        7 => {
            let at = random.below(BLOCK);
            block[at] = random.byte();
        }
        _ => {
            let at = 386 + random.below(97);
            block[at] = b"01234567\0"[random.below(9)];
        }
    }
}

/// Unpacks, and says what is wrong. Answers whether it came to its end.
fn attempt(place: &Path, archive: Vec<u8>) -> Result<bool, String> {
    let round = place.join("round");
    let target = round.join("in");
    for folder in [&target, &round.join("lower/a/b")] {
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    }
    fs::write(round.join("canary"), "sings").map_err(|e| e.to_string())?;
    fs::write(round.join("lower/f"), "below").map_err(|e| e.to_string())?;
    let lower = [round.join("lower")];
    let mut ended = false;
    for below in [None, Some(&lower[..])] {
        let source = Cursor::new(archive.clone());
        let outcome = catch_unwind(AssertUnwindSafe(|| unpack(source, &target, below)));
        match outcome.map_err(|_| "a panic".to_owned())? {
            Ok(()) => ended = true,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidArgument
                        | ErrorKind::DataLoss
                        | ErrorKind::ResourceExhausted
                        | ErrorKind::PermissionDenied
                ) => {}
            Err(error) => return Err(format!("{error:?}")),
        }
        let canary = fs::read_to_string(round.join("canary")).map_err(|e| e.to_string())?;
        let around: Vec<_> = fs::read_dir(&round).map_err(|e| e.to_string())?.collect();
        if canary != "sings" || around.len() != 3 {
            return Err("something is other outside".into());
        }
    }
    fs::remove_dir_all(&round).map_err(|e| format!("remove: {e}"))?;
    Ok(ended)
}
