//! Names that nobody else uses.

use std::{
    hash::{BuildHasher, RandomState},
    time::SystemTime,
};

/// A name such as `import-123456789-AbCd`, with nanoseconds of the clock and
/// something random in it, as containerd makes them.
pub(crate) fn unique(prefix: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // std seeds it from the kernel's random numbers.
    let random = RandomState::new().hash_one(now);
    let letter = |shift: u32| char::from(LETTERS[(random >> shift) as usize & 63]);
    let random: String = [0, 6, 12, 18].into_iter().map(letter).collect();
    format!("{prefix}-{}-{random}", now.subsec_nanos())
}
