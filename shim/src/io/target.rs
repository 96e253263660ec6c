//! What a client's words for a stream mean.
//!
//! A path is a FIFO or a file that exists. `file:///path` is a file that is
//! made and appended to. `binary:///path?key=value` is a logging program with
//! `key` and `value` as arguments; `binary-v2` demands that it says a byte
//! when it is ready (containerd, `docs/` on logging and `process/io.go`).

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use shim_protocol::{Error, Result};

/// Where a stream goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Nowhere.
    Null,
    /// A FIFO or file that exists.
    Path(PathBuf),
    /// A file that may have to be made.
    File(PathBuf),
    /// A program.
    Logger(LoggerSpec),
}

/// A logging program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggerSpec {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// It must write a byte when it is ready; else its closing the pipe is enough.
    pub(super) says_ready: bool,
}

impl Target {
    /// # Errors
    /// `InvalidArgument` for another scheme, or a URI without an absolute path.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Path(text.into()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decode(path, text)?);
        if !path.is_absolute() {
            return Err(invalid(text, "has no absolute path"));
        }
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" | "binary-v2" => Ok(Self::Logger(LoggerSpec {
                program: path,
                arguments: arguments(query, text)?,
                says_ready: scheme == "binary-v2",
            })),
            _ => Err(invalid(text, "has an unknown scheme")),
        }
    }
}

/// Each key is followed by its first value, which may be empty.
fn arguments(query: &str, uri: &str) -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // In a query, unlike in a path, "+" is a space.
        let key = decode(&key.replace('+', " "), uri)?;
        if !arguments.iter().step_by(2).any(|seen| *seen == key) {
            arguments.push(key);
            arguments.push(decode(&value.replace('+', " "), uri)?);
        }
    }
    Ok(arguments)
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str, uri: &str) -> Result<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(invalid(uri, "is not percent-encoded")),
        }
    }
    Ok(OsString::from_vec(bytes))
}

fn invalid(uri: &str, why: &str) -> Error {
    Error::invalid(format!("stream URI {uri:?} {why}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shim_protocol::ErrorKind;

    use super::*;

    #[test]
    fn paths_and_files() {
        assert_eq!(Target::parse("").unwrap(), Target::Null);
        for text in ["/run/fifo/1-stdout", "fifo:///run/fifo/1-stdout"] {
            assert_eq!(Target::parse(text).unwrap(), Target::Path("/run/fifo/1-stdout".into()));
        }
        let file = Target::parse("file:///var/log/a%20b.log").unwrap();
        assert_eq!(file, Target::File("/var/log/a b.log".into()));
    }

    #[test]
    fn a_logger_gets_key_and_value_as_arguments() {
        let Target::Logger(logger) =
            Target::parse("binary:///bin/log?dir=/a%2Fb&flag&dir=again&x=1+2").unwrap()
        else {
            panic!("not a logger")
        };
        assert_eq!(logger.program, Path::new("/bin/log"));
        assert_eq!(logger.arguments, ["dir", "/a/b", "flag", "", "x", "1 2"]);
        assert!(!logger.says_ready);
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["http://x/y", "file://relative", "binary://", "file:///a%2", "file:///%zz"] {
            let error = Target::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
