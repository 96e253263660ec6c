//! Digests: names of content that follow from the content.

use std::fmt;

use sha2::{Sha256, Sha384, Sha512, digest::Digest as _};
use shim_protocol::{Error, Result};

/// A hash function that digests may be made with (OCI image specification,
/// "Registered algorithms").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// The one that nearly all content is named with.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hexadecimal part.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// A digest such as `sha256:2c26b4…`. That it has the right form is checked
/// when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Reads a digest.
    ///
    /// # Errors
    /// `InvalidArgument` when it has another form, or its algorithm is not
    /// among [`Algorithm::ALL`].
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::invalid(format!("digest {text:?}: {why}")));
        let Some((name, hex)) = text.split_once(':') else { return refuse("no algorithm") };
        match Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name) {
            Some(algorithm) => match Self::from_hex(algorithm, hex) {
                Some(digest) => Ok(digest),
                None => refuse("not so many lower-case hexadecimal digits as it must have"),
            },
            None => refuse("unknown algorithm"),
        }
    }

    /// The digest with these digits; none if they are not its digits.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let good = hex.len() == algorithm.digits()
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.digest()
    }

    /// What it was made with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Makes the digest of content that comes piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// Makes a [`Algorithm::Sha256`].
    Sha256(Sha256),
    /// Makes a [`Algorithm::Sha384`].
    Sha384(Sha384),
    /// Makes a [`Algorithm::Sha512`].
    Sha512(Sha512),
}

impl Hasher {
    /// Nothing has come yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha384 => Self::Sha384(Sha384::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(piece),
            Self::Sha384(hasher) => hasher.update(piece),
            Self::Sha512(hasher) => hasher.update(piece),
        }
    }

    /// What makes it.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha384(_) => Algorithm::Sha384,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The digest of what came so far.
    pub fn digest(&self) -> Digest {
        let hex = match self.clone() {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha384(hasher) => hex(&hasher.finalize()),
            Self::Sha512(hasher) => hex(&hasher.finalize()),
        };
        Digest { algorithm: self.algorithm(), hex }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;

    /// printf foo | sha256sum, sha384sum and sha512sum.
    const FOO: [&str; 3] = [
        "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "sha384:98c11ffdfdd540676b1a137cb1a22b2a70350c9a44171d6b1180c6be5cbb2ee3\
         f79d532c8a1dd9ef2e8e08e752a3babb",
        "sha512:f7fbba6e0636f890e56fbbf3283e524c6fa3204ae298382d624741d0dc663832\
         6e282c41be5e4254d8820772c5518a2c5a8c0c7f7eda19594a7eb539453e1ed7",
    ];

    #[test]
    fn known_content_has_its_digest() {
        for (algorithm, expected) in Algorithm::ALL.into_iter().zip(FOO) {
            let digest = Digest::of(algorithm, b"foo");
            assert_eq!(digest.to_string(), expected);
            assert_eq!(Digest::parse(expected).unwrap(), digest);
        }
    }

    #[test]
    fn pieces_make_the_whole() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"f");
        assert_ne!(hasher.digest().to_string(), FOO[0]);
        hasher.update(b"oo");
        assert_eq!(hasher.digest().to_string(), FOO[0]);
    }

    #[test]
    fn other_forms_are_refused() {
        let short = &FOO[0][..FOO[0].len() - 1];
        let upper = FOO[0].to_uppercase().replace("SHA256", "sha256");
        for text in ["", "sha256", "sha256:", short, &upper, "md5:00", "sha256:../../../etc"] {
            let error = Digest::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
