//! Garbage: what nothing refers to any more is found and removed.

/// Label with the time (RFC 3339) from which on a lease holds nothing, or an
/// image is kept only if something refers to it.
pub const EXPIRE_LABEL: &str = "containerd.io/gc.expire";
