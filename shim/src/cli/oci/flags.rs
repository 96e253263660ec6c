//! Flags in the manner of runc: `--name value`, `--name=value`, `-n value`,
//! switches without a value; they end at the first other word.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    iter::Peekable,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use shim_protocol::{Error, Result};

/// A flag that is understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    name: &'static str,
    short: Option<char>,
    takes_value: bool,
}

/// One with a value.
pub(super) const fn value(name: &'static str) -> Flag {
    Flag { name, short: None, takes_value: true }
}

/// One without.
pub(super) const fn switch(name: &'static str) -> Flag {
    Flag { name, short: None, takes_value: false }
}

impl Flag {
    /// It has a short name, too.
    pub(super) const fn or(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }
}

/// The flags that were given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(HashMap<&'static str, Vec<OsString>>);

impl Flags {
    /// Takes flags off the front of `words`.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown flag, or one that lacks its value.
    pub(super) fn take<I: Iterator<Item = OsString>>(
        words: &mut Peekable<I>,
        known: &[Flag],
    ) -> Result<Self> {
        let mut flags = Self::default();
        while let Some(word) =
            words.next_if(|word| word.len() > 1 && word.as_bytes().starts_with(b"-"))
        {
            if word == "--" {
                break;
            }
            let (name, inline) = split(&word);
            let flag = known.iter().find(|flag| flag.is(name));
            let flag =
                flag.ok_or_else(|| Error::invalid(format!("unknown flag {}", word.display())))?;
            let value = match (flag.takes_value, inline) {
                (true, Some(value)) => value.to_owned(),
                (true, None) => words
                    .next()
                    .ok_or_else(|| Error::invalid(format!("flag --{} needs a value", flag.name)))?,
                (false, None) => OsString::new(),
                (false, Some(value)) if value == "true" => OsString::new(),
                (false, Some(value)) if value == "false" => continue,
                (false, Some(_)) => {
                    return Err(Error::invalid(format!("flag --{} takes no value", flag.name)));
                }
            };
            flags.0.entry(flag.name).or_default().push(value);
        }
        Ok(flags)
    }

    /// Was it given?
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The last value.
    pub(super) fn last(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).and_then(|values| values.last()).map(OsString::as_os_str)
    }

    /// The last value as a path that stays good when the working folder changes.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty one.
    pub(super) fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(value) = self.last(name) else { return Ok(None) };
        std::path::absolute(value).map(Some).map_err(|e| {
            let kind = shim_protocol::ErrorKind::InvalidArgument;
            Error::caused(kind, format!("flag --{name}"), e)
        })
    }

    /// All values as text.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is no text.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.0.get(name).into_iter().flatten().map(|value| text(name, value)).collect()
    }
}

impl Flag {
    fn is(&self, name: &[u8]) -> bool {
        let short = |short: char| name.len() == 1 && name[0] == short as u8;
        self.name.as_bytes() == name || self.short.is_some_and(short)
    }
}

fn split(word: &OsStr) -> (&[u8], Option<&OsStr>) {
    let bytes = word.as_bytes();
    let body = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
    match body.iter().position(|byte| *byte == b'=') {
        Some(at) => (&body[..at], Some(OsStr::from_bytes(&body[at + 1..]))),
        None => (body, None),
    }
}

/// # Errors
/// `InvalidArgument` for what is no text.
pub(super) fn text(name: &str, value: &OsStr) -> Result<String> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::invalid(format!("{name}: {} is no text", value.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Flag; 3] =
        [value("bundle").or('b'), value("env").or('e'), switch("force").or('f')];

    fn take(line: &str) -> Result<(Flags, Vec<String>)> {
        let mut words = line.split_whitespace().map(OsString::from).peekable();
        let flags = Flags::take(&mut words, &KNOWN)?;
        Ok((flags, words.map(|word| word.into_string().unwrap()).collect()))
    }

    #[test]
    fn all_spellings() {
        for line in ["--bundle /b -f a", "-b /b --force a", "--bundle=/b -f=true -- a"] {
            let (flags, rest) = take(line).unwrap();
            assert_eq!(flags.path("bundle").unwrap(), Some("/b".into()), "{line}");
            assert!(flags.has("force"));
            assert_eq!(rest, ["a"]);
        }
        let (flags, rest) = take("-e A=1 --env=B=2 a -f").unwrap();
        assert_eq!(flags.texts("env").unwrap(), ["A=1", "B=2"]);
        assert_eq!((flags.has("force"), rest), (false, vec!["a".into(), "-f".into()]));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, words) in [
            ("--colour a", "unknown flag --colour"),
            ("-b", "flag --bundle needs a value"),
            ("--force=maybe", "flag --force takes no value"),
        ] {
            assert_eq!(take(line).unwrap_err().to_string(), words);
        }
    }
}
