//! Where content came from: a label that says so lets a later push ask the
//! registry to take it from there.

use std::collections::BTreeMap;

/// Beginning of the label's key; the registry's host follows.
const PREFIX: &str = "containerd.io/distribution.source.";

/// How long key and value of a label may be together.
const MAX_LABEL_BYTES: usize = 4096;

/// A repository in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The registry's host, without a port, such as `docker.io`.
    pub host: String,
    /// Such as `library/redis`.
    pub repository: String,
}

impl Origin {
    /// The label that notes it beside what `labels` have noted; none if it is
    /// among that already, or there is no room for it.
    pub fn label(&self, labels: &BTreeMap<String, String>) -> Option<(String, String)> {
        let key = self.key();
        let mut repositories: Vec<&str> = noted(labels, &key).collect();
        if repositories.contains(&self.repository.as_str()) {
            return None;
        }
        repositories.push(&self.repository);
        repositories.sort_unstable();
        let value = repositories.join(",");
        (key.len() + value.len() <= MAX_LABEL_BYTES).then_some((key, value))
    }

    /// The repository of the same registry that content with these labels also
    /// came from, if there is one: the one with the most in common.
    pub fn other(&self, labels: &BTreeMap<String, String>) -> Option<String> {
        let common = |other: &str| {
            let parts = self.repository.split('/').zip(other.split('/'));
            parts.take_while(|(a, b)| a == b).count()
        };
        let key = self.key();
        let others = noted(labels, &key).filter(|other| *other != self.repository);
        others.max_by_key(|other| common(other)).map(str::to_owned)
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}", self.host)
    }
}

/// Whether a label notes where content came from.
pub fn is_label(key: &str) -> bool {
    key.starts_with(PREFIX)
}

fn noted<'a>(labels: &'a BTreeMap<String, String>, key: &str) -> impl Iterator<Item = &'a str> {
    labels.get(key).into_iter().flat_map(|value| value.split(',')).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(repository: &str) -> Origin {
        Origin { host: "docker.io".into(), repository: repository.into() }
    }

    #[test]
    fn repositories_are_noted_once_and_in_order() {
        let mut labels = BTreeMap::new();
        for repository in ["library/redis", "library/alpine"] {
            let (key, value) = origin(repository).label(&labels).unwrap();
            labels.insert(key, value);
        }
        let expected = "library/alpine,library/redis";
        assert_eq!(labels["containerd.io/distribution.source.docker.io"], expected);
        assert_eq!(origin("library/redis").label(&labels), None);
        assert_eq!(origin(&"x".repeat(MAX_LABEL_BYTES)).label(&labels), None);
    }

    #[test]
    fn the_nearest_other_repository_is_chosen() {
        let value = "a/b/c,a/x,z".to_owned();
        let labels =
            BTreeMap::from([("containerd.io/distribution.source.docker.io".into(), value)]);
        assert_eq!(origin("a/b/d").other(&labels).as_deref(), Some("a/b/c"));
        assert_eq!(origin("a/b/c").other(&labels).as_deref(), Some("a/x"));
        assert_eq!(Origin { host: "quay.io".into(), ..origin("a") }.other(&labels), None);
    }
}
