//! Properties of the unit that a client sets by annotations, as with runc
//! (its `docs/systemd.md`, "Auxiliary properties"): names are systemd's, values
//! are in GVariant's text form, of which these are understood: yes or no,
//! numbers with or without their type, texts, and lists of texts.

use std::collections::HashMap;

use shim_protocol::{Error, Result};

use super::wire::Value;

const PREFIX: &str = "org.systemd.property.";
const MICROSECONDS: u64 = 1_000_000;

/// The properties that annotations set.
///
/// # Errors
/// `InvalidArgument` for what is not understood, by the annotation.
pub(super) fn properties(annotations: &HashMap<String, String>) -> Result<Vec<(String, Value)>> {
    let named =
        annotations.iter().filter_map(|(key, text)| Some((key.strip_prefix(PREFIX)?, text)));
    let mut all = named.map(|(name, text)| property(name, text)).collect::<Result<Vec<_>>>()?;
    all.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}

fn property(name: &str, text: &str) -> Result<(String, Value)> {
    let wrong = |what: &str| Error::invalid(format!("annotations: {PREFIX}{name}: {what}"));
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(wrong("not the name of a property"));
    }
    let text = text.trim();
    let stem =
        name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    if let Some(stem) = stem {
        // systemd's files know seconds, its bus does not.
        let micros = microseconds(text).ok_or_else(|| wrong("not a number of seconds"))?;
        return Ok((format!("{stem}USec"), Value::U64(micros)));
    }
    let value = value(text).ok_or_else(|| wrong("not a value that is understood"))?;
    Ok((name.to_owned(), value))
}

fn value(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Flag(true)),
        "false" => return Some(Value::Flag(false)),
        _ => {}
    }
    if let Some(list) = text.strip_prefix('[') {
        return texts(list.strip_suffix(']')?).map(Value::Texts);
    }
    if text.starts_with(['\'', '"']) {
        let (word, rest) = quoted(text)?;
        return rest.is_empty().then_some(Value::Text(word));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("int32", text));
    let number = number.trim();
    match kind {
        "uint32" | "@u" => number.parse().ok().map(Value::U32),
        "uint64" | "@t" => number.parse().ok().map(Value::U64),
        "int32" | "@i" => number.parse().ok().map(Value::I32),
        "int64" | "@x" => number.parse().ok().map(Value::I64),
        _ => None,
    }
}

/// Seconds, whole or not.
fn microseconds(text: &str) -> Option<u64> {
    match value(text) {
        Some(Value::U32(number)) => Some(u64::from(number) * MICROSECONDS),
        Some(Value::U64(number)) => number.checked_mul(MICROSECONDS),
        Some(Value::I32(number)) => u64::try_from(number).ok()?.checked_mul(MICROSECONDS),
        Some(Value::I64(number)) => u64::try_from(number).ok()?.checked_mul(MICROSECONDS),
        Some(_) => None,
        None => {
            let micros = text.parse::<f64>().ok()? * MICROSECONDS as f64;
            (micros.is_finite() && micros >= 0.0).then_some(micros as u64)
        }
    }
}

fn texts(list: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let (word, behind) = quoted(rest)?;
        all.push(word);
        rest = behind.trim_start();
        if !rest.is_empty() {
            // Another one has to follow.
            let next = rest.strip_prefix(',')?.trim_start();
            rest = Some(next).filter(|next| !next.is_empty())?;
        }
    }
    Some(all)
}

/// A text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let mut word = String::new();
    let mut rest = text.get(1..)?.char_indices();
    while let Some((at, letter)) = rest.next() {
        match letter {
            '\\' => word.push(match rest.next()?.1 {
                'n' => '\n',
                't' => '\t',
                plain @ ('\\' | '\'' | '"') => plain,
                _ => return None,
            }),
            '\0' => return None,
            letter if letter == quote => return Some((word, text.get(at + 2..)?)),
            letter => word.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use shim_protocol::ErrorKind;

    use super::*;

    fn read(name: &str, text: &str) -> Result<(String, Value)> {
        let annotations =
            [(format!("{PREFIX}{name}"), text.to_owned()), ("other".into(), "x".into())];
        Ok(properties(&annotations.into())?.remove(0))
    }

    #[test]
    fn values_of_all_kinds() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        for (name, text, property, value) in [
            (
                "CollectMode",
                "'inactive-or-failed'",
                "CollectMode",
                Value::Text("inactive-or-failed".into()),
            ),
            ("Description", r#""it's \"so\"""#, "Description", Value::Text("it's \"so\"".into())),
            ("TimeoutStopUSec", "uint64 123456789", "TimeoutStopUSec", Value::U64(123_456_789)),
            ("TimeoutStopSec", "90", "TimeoutStopUSec", Value::U64(90_000_000)),
            ("TimeoutStopSec", "uint32 2", "TimeoutStopUSec", Value::U64(2_000_000)),
            ("TimeoutStopSec", "1.5", "TimeoutStopUSec", Value::U64(1_500_000)),
            ("SendSIGHUP", "true", "SendSIGHUP", Value::Flag(true)),
            ("KillSignal", "15", "KillSignal", Value::I32(15)),
            ("Weight", "@t 7", "Weight", Value::U64(7)),
            (
                "After",
                "['a.service', \"b.service\"]",
                "After",
                Value::Texts(words(&["a.service", "b.service"])),
            ),
            ("After", "[]", "After", Value::Texts(Vec::new())),
        ] {
            assert_eq!(read(name, text).unwrap(), (property.to_owned(), value), "{name}={text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (name, text) in [
            ("", "true"),
            ("A1b", "true"),
            ("Some", "maybe"),
            ("Some", "'open"),
            ("Some", "'a' b"),
            ("Some", "['a',]"),
            ("Some", "['a' 'b']"),
            ("Some", "[1]"),
            ("Some", "uint64 -1"),
            ("StopSec", "soon"),
            ("StopSec", "-1"),
            ("StopSec", "true"),
            ("StopSec", "nan"),
        ] {
            let error = read(name, text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}={text}");
            assert!(error.to_string().contains(&format!("{PREFIX}{name}")), "{error}");
        }
    }
}
