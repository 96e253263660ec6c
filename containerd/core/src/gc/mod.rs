//! Garbage: what nothing refers to any more is found and removed.
