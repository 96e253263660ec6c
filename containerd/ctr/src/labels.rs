//! `key=value` on the command line.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

/// Labels; a key alone has the value `true`.
pub(crate) fn parse(labels: &[String]) -> BTreeMap<String, String> {
    let pair = |label: &String| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (label.clone(), "true".to_owned()),
    };
    labels.iter().map(pair).collect()
}

/// Annotations; a key alone is an error.
pub(crate) fn parse_annotations(annotations: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) =
            text.split_once('=').ok_or_else(|| anyhow!("annotation {text:?} is not key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    annotations.iter().map(pair).collect()
}

/// Labels as in a table: `a=1,b=2`.
pub(crate) fn join(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_alone_is_true() {
        let labels = parse(&["a=1".into(), "b".into(), "c=".into(), "d=x=y".into()]);
        assert_eq!(join(&labels), "a=1,b=true,c=,d=x=y");
    }

    #[test]
    fn an_annotation_needs_a_value() {
        assert!(parse_annotations(&["a".into()]).is_err());
        assert_eq!(parse_annotations(&["a=".into()]).unwrap()["a"], "");
    }
}
