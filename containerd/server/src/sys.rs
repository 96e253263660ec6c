//! The daemon's unsafe code.
#![allow(unsafe_code)]

/// Keeps the allocator from setting memory aside for each thread: requests
/// are small, and a daemon that idles shall be small too.
pub(crate) fn limit_allocator() {
    /// Number of arenas that threads share.
    const ARENAS: libc::c_int = 1;
    /// Free memory, in bytes, that is kept at the end of the heap.
    const TRIM_THRESHOLD: libc::c_int = 128 * 1024;

    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and may be called at any time; a
    // value that it does not like changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// Makes `folder` the place for temporary files of this process and its
/// children. Must be called before there is a second thread.
pub(crate) fn set_temp_dir(folder: &std::path::Path) {
    // SAFETY: the daemon calls this before it starts its runtime, so no other
    // thread can be reading the environment.
    unsafe { std::env::set_var("TMPDIR", folder) };
}
