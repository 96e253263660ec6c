//! Keys of several parts.

use shim_protocol::{Error, ErrorKind, Result};

/// Parts that each end in a NUL byte: so the keys below a namespace, or below
/// a lease, lie side by side, and a key of fewer parts is their prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// # Errors
    /// `InvalidArgument` when a part has a NUL byte in it. No identifier has;
    /// names that clients choose freely might.
    pub(crate) fn new(parts: &[&str]) -> Result<Self> {
        let mut key = Vec::with_capacity(parts.iter().map(|p| p.len() + 1).sum());
        for part in parts {
            if part.contains('\0') {
                return Err(Error::invalid(format!("NUL byte in the name {part:?}")));
            }
            key.extend_from_slice(part.as_bytes());
            key.push(0);
        }
        Ok(Self(key))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first key after all those that this one is a prefix of; `None` if
    /// there is no end, since this key has no part.
    pub(crate) fn end(&self) -> Option<Vec<u8>> {
        let mut end = self.0.clone();
        *end.last_mut()? = 1;
        Some(end)
    }
}

/// The last part of a stored key.
pub(crate) fn last_part(key: &[u8]) -> Result<&str> {
    let [part] = last_parts(key)?;
    Ok(part)
}

/// The last parts of a stored key, in their order.
pub(crate) fn last_parts<const N: usize>(key: &[u8]) -> Result<[&str; N]> {
    let mut found = [""; N];
    let text = std::str::from_utf8(key).ok().and_then(|t| t.strip_suffix('\0'));
    let mut parts = text.ok_or_else(|| damaged("key", key))?.rsplit('\0');
    for slot in found.iter_mut().rev() {
        *slot = parts.next().ok_or_else(|| damaged("key", key))?;
    }
    Ok(found)
}

/// The error for something in the database that this program cannot have written.
pub(crate) fn damaged(what: &str, key: &[u8]) -> Error {
    let key = String::from_utf8_lossy(key);
    Error::new(ErrorKind::DataLoss, format!("damaged {what} at {key:?} in the database"))
}
