//! What holds for labels of every object.

use std::collections::BTreeMap;

use shim_protocol::{Error, Result};

/// Key and value together have at most so many bytes (containerd, `pkg/labels`).
const MAX_BYTES: usize = 4096;

/// How much of a long key an error shows.
const SHOWN_CHARS: usize = 64;

/// # Errors
/// `InvalidArgument` when a label is too long.
pub(crate) fn validate(labels: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        let length = key.len() + value.len();
        if length > MAX_BYTES {
            let shown: String = key.chars().take(SHOWN_CHARS).collect();
            return Err(Error::invalid(format!(
                "label {shown:?} has {length} bytes with its value, {MAX_BYTES} are allowed"
            )));
        }
    }
    Ok(())
}

/// Removes labels with an empty value: that is how clients remove a label, so
/// none is ever stored.
pub(crate) fn drop_empty(labels: &mut BTreeMap<String, String>) {
    labels.retain(|_, value| !value.is_empty());
}
