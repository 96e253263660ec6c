//! Identifiers of namespaces, containers, execs and leases.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use crate::{Error, Result};

/// The longest identifier, in bytes: it must fit into file names with a
/// suffix (containerd, `pkg/identifiers`).
pub const MAX_LENGTH: usize = 76;

/// A checked identifier: `[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*`, at most
/// [`MAX_LENGTH`] bytes. So it is safe as a file name, and never empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

impl Id {
    /// Checks `text`; `what` names the thing in the error, such as "container id".
    ///
    /// # Errors
    /// `InvalidArgument` when `text` is empty, too long or has other characters.
    pub fn new(what: &str, text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid(format!("{what} must not be empty")));
        }
        if text.len() > MAX_LENGTH {
            let shown: String = text.chars().take(32).collect();
            return Err(Error::invalid(format!(
                "{what} \"{shown}…\" has {} bytes, {MAX_LENGTH} are allowed",
                text.len()
            )));
        }
        if !is_well_formed(text) {
            return Err(Error::invalid(format!(
                "{what} {text:?} must match [A-Za-z0-9]+([._-][A-Za-z0-9]+)*"
            )));
        }
        Ok(Self(text.into()))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Letters and digits, with single separators strictly between them.
fn is_well_formed(text: &str) -> bool {
    let mut after_separator = true;
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => after_separator = false,
            b'.' | b'_' | b'-' if !after_separator => after_separator = true,
            _ => return false,
        }
    }
    !after_separator
}

impl Deref for Id {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<std::path::Path> for Id {
    fn as_ref(&self) -> &std::path::Path {
        (*self.0).as_ref()
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn good_ones() {
        for text in ["a", "default", "k8s.io", "a_b-c.d", "0", &"x".repeat(MAX_LENGTH)] {
            assert_eq!(Id::new("id", text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn bad_ones_are_named() {
        for text in ["", ".", "..", "a/b", "a..b", "-a", "a-", "ä", "a b", "a\0", &"x".repeat(77)]
        {
            let error = Id::new("container id", text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}");
            assert!(error.to_string().starts_with("container id "), "{error}");
        }
    }
}
