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

/// Which labels an update is about.
#[derive(Debug)]
pub(crate) enum Mask {
    /// All of them.
    All,
    /// Those with these keys.
    Keys(Vec<String>),
}

impl Mask {
    /// Reads the paths of an update's mask: `labels`, or `labels.<key>`. None
    /// stands for all labels. `what` is the thing that has them.
    ///
    /// # Errors
    /// `InvalidArgument` when a path names something else.
    pub(crate) fn parse<S: AsRef<str>>(paths: &[S], what: &str) -> Result<Self> {
        let mut keys = Vec::with_capacity(paths.len());
        let mut all = paths.is_empty();
        for path in paths {
            match path.as_ref().split_once('.') {
                Some(("labels", key)) => keys.push(key.to_owned()),
                None if path.as_ref() == "labels" => all = true,
                _ => {
                    let text = format!("cannot update field {:?} of {what}", path.as_ref());
                    return Err(Error::invalid(text));
                }
            }
        }
        Ok(if all { Self::All } else { Self::Keys(keys) })
    }

    /// The labels after the update; a label that `new` lacks is removed.
    pub(crate) fn apply(
        self,
        mut old: BTreeMap<String, String>,
        mut new: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let Self::Keys(keys) = self else { return new };
        for key in keys {
            match new.remove(&key) {
                Some(value) => old.insert(key, value),
                None => old.remove(&key),
            };
        }
        old
    }
}

/// Removes labels with an empty value: that is how clients remove a label, so
/// none is ever stored.
pub(crate) fn drop_empty(labels: &mut BTreeMap<String, String>) {
    labels.retain(|_, value| !value.is_empty());
}
