//! What labels say about who needs whom (containerd, `core/metadata/gc.go`).

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;

use super::{
    EXPIRE_LABEL, ROOT_LABEL,
    node::{Kind, Node},
};

/// The object with the label needs another one.
const REFERENCE: &str = "containerd.io/gc.ref.";

/// Another one needs the object with the label.
const BACK_REFERENCE: &str = "containerd.io/gc.bref.";

/// Content or an image needs a snapshot, if that was in use lately, or was not.
const CONDITION: &str = "containerd.io/gc.cond.snapshot";

/// When a snapshot was last in use.
const USED_AT: &str = "containerd.io/gc.cond.value-usedat";

/// A condition on the time that has passed since a snapshot was in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    LessThan(Duration),
    MoreThan(Duration),
}

impl Condition {
    pub(super) fn holds(self, used: SystemTime, now: SystemTime) -> bool {
        let passed = now.duration_since(used).unwrap_or_default();
        match self {
            Self::LessThan(limit) => passed < limit,
            Self::MoreThan(limit) => passed > limit,
        }
    }
}

/// What the object with these labels needs.
pub(super) fn references(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Node> {
    below(labels, REFERENCE).filter_map(|(key, value)| {
        referred("content", Kind::Content, key, value)
            .or_else(|| referred("image", Kind::Image, key, value))
            .or_else(|| snapshot(key, value))
    })
}

/// What needs the object with these labels.
pub(super) fn back_references(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Node> {
    below(labels, BACK_REFERENCE).filter_map(|(key, value)| {
        referred("container", Kind::Container, key, value)
            .or_else(|| referred("content", Kind::Content, key, value))
            .or_else(|| referred("image", Kind::Image, key, value))
            .or_else(|| snapshot(key, value))
    })
}

/// Whether the object is kept for its own sake.
pub(super) fn is_root(labels: &BTreeMap<String, String>) -> bool {
    // As containerd has it, whatever follows is a label of this sort too.
    labels.range(ROOT_LABEL.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(ROOT_LABEL))
}

/// Whether the time of the object is over. A text that is no time is none.
pub(super) fn is_expired(labels: &BTreeMap<String, String>, now: SystemTime) -> bool {
    labels.get(EXPIRE_LABEL).and_then(|text| time(text)).is_some_and(|end| end < now)
}

/// The snapshots that the object with these labels needs under a condition.
pub(super) fn conditions(
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = (Node, Condition)> {
    below(labels, CONDITION).flat_map(|(key, value)| {
        let name = key.trim_start_matches(['.', '/']);
        let name = name.split_once('/').map_or(name, |(name, _)| name);
        let (conditions, key) = value.split_once('|').unwrap_or_default();
        conditions
            .split(',')
            .filter_map(condition)
            .map(move |condition| (Node::snapshot(name, key), condition))
    })
}

/// When the snapshot with these labels was in use.
pub(super) fn used_at(labels: &BTreeMap<String, String>) -> impl Iterator<Item = SystemTime> {
    below(labels, USED_AT).filter_map(|(_, value)| time(value))
}

/// The labels whose keys begin with `prefix`, with what follows it.
fn below<'a>(
    labels: &'a BTreeMap<String, String>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    labels
        .range(prefix.to_owned()..)
        .map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
}

/// `key` is the kind's word, alone or with `.` or `/` and any name behind it.
fn referred(word: &str, kind: Kind, key: &str, value: &str) -> Option<Node> {
    let rest = key.strip_prefix(word)?;
    (rest.is_empty() || rest.starts_with(['.', '/'])).then(|| Node::new(kind, value))
}

/// `key` is `snapshot.` and the snapshotter, perhaps with `/` and any name.
fn snapshot(key: &str, value: &str) -> Option<Node> {
    let name = key.strip_prefix("snapshot.")?;
    let name = name.split_once('/').map_or(name, |(name, _)| name);
    Some(Node::snapshot(name, value))
}

/// Such as `usedat<24h`.
fn condition(text: &str) -> Option<Condition> {
    let rest = text.strip_prefix("usedat")?;
    if let Some(limit) = rest.strip_prefix('<') {
        return duration(limit).map(Condition::LessThan);
    }
    duration(rest.strip_prefix('>')?).map(Condition::MoreThan)
}

fn time(text: &str) -> Option<SystemTime> {
    SystemTime::try_from(text.parse::<Timestamp>().ok()?).ok()
}

/// A length of time in Go's notation, such as `1h30m`.
fn duration(text: &str) -> Option<Duration> {
    // `ms` comes before `m`, which it begins with.
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text.strip_prefix('+').unwrap_or(text), Duration::ZERO);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::labels;

    #[test]
    fn references_have_names_or_none() {
        let found = labels(&[
            ("containerd.io/gc.ref.content", "c1"),
            ("containerd.io/gc.ref.content.0", "c2"),
            ("containerd.io/gc.ref.content/x.y", "c3"),
            ("containerd.io/gc.ref.contents", "no"),
            ("containerd.io/gc.ref.image.m", "i"),
            ("containerd.io/gc.ref.snapshot", "no"),
            ("containerd.io/gc.ref.snapshot.overlayfs", "s1"),
            ("containerd.io/gc.ref.snapshot.overlayfs/a/b", "s2"),
            ("containerd.io/gc.reference.content", "no"),
            ("containerd.io/gc.bref.content", "no"),
        ]);
        let expected = [
            Node::new(Kind::Content, "c1"),
            Node::new(Kind::Content, "c2"),
            Node::new(Kind::Content, "c3"),
            Node::new(Kind::Image, "i"),
            Node::snapshot("overlayfs", "s1"),
            Node::snapshot("overlayfs", "s2"),
        ];
        assert_eq!(references(&found).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn back_references_may_be_to_containers() {
        let found = labels(&[
            ("containerd.io/gc.bref.container", "c"),
            ("containerd.io/gc.bref.container.x", "d"),
            ("containerd.io/gc.bref.image/x", "i"),
            ("containerd.io/gc.bref.snapshot.native/x", "s"),
            ("containerd.io/gc.ref.content", "no"),
        ]);
        let expected = [
            Node::new(Kind::Container, "c"),
            Node::new(Kind::Container, "d"),
            Node::new(Kind::Image, "i"),
            Node::snapshot("native", "s"),
        ];
        assert_eq!(back_references(&found).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn times_that_are_none_do_not_end() {
        let now = time("2024-05-06T07:08:09Z").unwrap();
        for (text, expected) in [
            ("2024-05-06T07:08:08Z", true),
            ("2024-05-06T07:08:09Z", false),
            ("2024-05-06T07:08:10Z", false),
            ("2024-05-06T09:08:08.9+02:00", true),
            ("2024-05-06T09:08:09+02:00", false),
            ("yesterday", false),
            ("", false),
        ] {
            assert_eq!(is_expired(&labels(&[(EXPIRE_LABEL, text)]), now), expected, "{text}");
        }
        assert!(!is_expired(&BTreeMap::new(), now));
    }

    #[test]
    fn roots_say_so() {
        assert!(is_root(&labels(&[("a", "b"), (ROOT_LABEL, "2024"), ("z", "")])));
        assert!(is_root(&labels(&[("containerd.io/gc.root.x", "1")])));
        assert!(!is_root(&labels(&[("containerd.io/gc.roo", "1"), ("z", "1")])));
    }

    #[test]
    fn conditions_are_several() {
        let found = labels(&[
            ("containerd.io/gc.cond.snapshot.overlayfs/x", "usedat<1h30m,usedat>2ms,usedat=1s|k|l"),
            ("containerd.io/gc.cond.snapshot.native", "usedat<1"),
            ("containerd.io/gc.cond.snapshot.other", "size<1h|k"),
        ]);
        let node = || Node::snapshot("overlayfs", "k|l");
        let expected = [
            (node(), Condition::LessThan(Duration::from_secs(5400))),
            (node(), Condition::MoreThan(Duration::from_millis(2))),
        ];
        assert_eq!(conditions(&found).collect::<Vec<_>>(), expected);
        let used = labels(&[(USED_AT, "1970-01-01T00:00:07Z")]);
        let used: Vec<_> = used_at(&used).collect();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(used, [at(7)]);
        let condition = Condition::LessThan(Duration::from_secs(3));
        assert!(condition.holds(at(7), at(9)) && !condition.holds(at(7), at(10)));
        let condition = Condition::MoreThan(Duration::from_secs(3));
        assert!(condition.holds(at(7), at(11)) && !condition.holds(at(7), at(10)));
    }
}
