//! Places at which a test lets the daemon die.
//!
//! A place has a name, such as `content.commit.placed`. In builds with debug
//! assertions, the process ends there as by SIGKILL if the environment variable
//! [`VARIABLE`] has that name; with `:3` behind it, the third time that it gets
//! there. Release builds have no such places.

/// The environment variable that says where.
pub const VARIABLE: &str = "CONTAINERD_FAULT";

/// Ends the process, if that is what [`VARIABLE`] says of `place`.
#[cfg(debug_assertions)]
pub fn point(place: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        Some(match text.split_once(':') {
            Some((place, times)) => (place.to_owned(), times.parse().ok()?),
            None => (text, 1),
        })
    });
    let Some((name, times)) = chosen else { return };
    if name == place && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times {
        // Nothing is flushed and no destructor runs, as when the power goes.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_place: &str) {}
