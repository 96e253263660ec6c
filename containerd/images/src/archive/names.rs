//! Which names images get that come from an archive.

use crate::{Descriptor, Reference, archive::ANNOTATION_IMAGE_NAME, walk::ANNOTATION_REF_NAME};

/// A name, or the beginning of names, that images get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRule {
    /// The name, or what it begins with.
    pub name: String,
    /// It is the beginning: a tag that an archive names is put behind it.
    pub is_prefix: bool,
    /// Full names in an archive count even if they begin otherwise.
    pub allow_overwrite: bool,
    /// Adds a name with the digest.
    pub add_digest: bool,
    /// But not for images that have another name.
    pub skip_named_digest: bool,
}

/// Names of an image that an archive describes with annotations (containerd,
/// `Store` in `core/transfer/image`). May be empty: then it gets none.
pub fn annotated(image: &Descriptor, rules: &[NameRule]) -> Vec<String> {
    let mut names = Vec::new();
    for rule in rules.iter().filter(|rule| rule.is_prefix) {
        let name = annotated_name(image, rule);
        let named = name.is_some();
        names.extend(name);
        if rule.add_digest && !(named && rule.skip_named_digest) {
            names.push(format!("{}@{}", rule.name, image.digest));
        }
    }
    names
}

/// Further names of an image that has a name: those that are complete.
pub fn additional(image: &Descriptor, rules: &[NameRule]) -> Vec<String> {
    let complete = rules.iter().filter(|rule| !rule.is_prefix || rule.add_digest);
    complete
        .map(|rule| match rule.add_digest {
            true => format!("{}@{}", rule.name, image.digest),
            false => rule.name.clone(),
        })
        .collect()
}

/// The name that an image has in an archive: a full one, or else its tag.
pub fn own_name(image: &Descriptor) -> Option<&str> {
    let name = |key: &str| image.annotations.get(key).map(String::as_str);
    name(ANNOTATION_IMAGE_NAME)
        .or_else(|| name(ANNOTATION_REF_NAME))
        .filter(|name| !name.is_empty())
}

fn annotated_name(image: &Descriptor, rule: &NameRule) -> Option<String> {
    let annotation = |key: &str| image.annotations.get(key).filter(|name| !name.is_empty());
    if let Some(name) = annotation(ANNOTATION_IMAGE_NAME) {
        // It is complete, or of no use.
        return complete(name, rule).filter(|complete| complete == name);
    }
    complete(annotation(ANNOTATION_REF_NAME)?, rule)
}

/// A full name as it is, if the rule allows it; a tag with the rule's name before
/// it.
fn complete(name: &str, rule: &NameRule) -> Option<String> {
    if rule.name.is_empty() {
        return None;
    }
    if !name.contains(['/', ':', '@']) {
        return Some(format!("{}:{name}", rule.name));
    }
    let begins = name
        .strip_prefix(&rule.name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
    (begins || rule.allow_overwrite).then(|| name.to_owned())
}

/// What is noted beside the name: only the tag if there is one, as the OCI
/// image specification has it.
pub(crate) fn reference_name(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) if reference.digest().is_none() => {
            reference.tag().map_or_else(|| name.to_owned(), str::to_owned)
        }
        _ => name.to_owned(),
    }
}

/// A name as Docker shows it: without its registry, if that is Docker's, and
/// with a tag in any case.
pub(crate) fn familiar(name: &str) -> Option<String> {
    let reference = Reference::parse_short(name).ok()?.or_latest();
    let full = reference.to_string();
    let short = full.strip_prefix("docker.io/").unwrap_or(&full);
    let short = short.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(short);
    Some(short.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{media_type, testing::descriptor};

    fn image(annotations: &[(&str, &str)]) -> Descriptor {
        let mut image = descriptor(media_type::OCI_MANIFEST, b"x");
        for (key, value) in annotations {
            image.annotations.insert((*key).into(), (*value).into());
        }
        image
    }

    fn prefix(name: &str) -> NameRule {
        NameRule { name: name.into(), is_prefix: true, ..NameRule::default() }
    }

    #[test]
    fn tags_get_the_prefix_and_full_names_must_have_it() {
        let rules = [prefix("docker.io/a")];
        let tag = image(&[(ANNOTATION_REF_NAME, "1.0")]);
        assert_eq!(annotated(&tag, &rules), ["docker.io/a:1.0"]);
        let full = image(&[(ANNOTATION_IMAGE_NAME, "docker.io/a/b:1"), (ANNOTATION_REF_NAME, "1")]);
        assert_eq!(annotated(&full, &rules), ["docker.io/a/b:1"]);
        let other = image(&[(ANNOTATION_IMAGE_NAME, "docker.io/ab:1"), (ANNOTATION_REF_NAME, "1")]);
        assert_eq!(annotated(&other, &rules), [""; 0]);
        let overwrite = [NameRule { allow_overwrite: true, ..prefix("docker.io/a") }];
        assert_eq!(annotated(&other, &overwrite), ["docker.io/ab:1"]);
        assert_eq!(
            annotated(&tag, &[NameRule { name: "x".into(), ..NameRule::default() }]),
            [""; 0]
        );
    }

    #[test]
    fn digests_are_added_as_asked() {
        let digest = NameRule { add_digest: true, ..prefix("a") };
        let (named, unnamed) = (image(&[(ANNOTATION_REF_NAME, "1")]), image(&[]));
        let by_digest = format!("a@{}", named.digest);
        assert_eq!(annotated(&named, std::slice::from_ref(&digest)), ["a:1", &by_digest]);
        assert_eq!(annotated(&unnamed, std::slice::from_ref(&digest)), [by_digest.as_str()]);
        let skip = [NameRule { skip_named_digest: true, ..digest }];
        assert_eq!(annotated(&named, &skip), ["a:1"]);
        assert_eq!(annotated(&unnamed, &skip), [by_digest]);
    }

    #[test]
    fn docker_sees_short_names() {
        for (name, short) in [
            ("docker.io/library/redis:7", "redis:7"),
            ("docker.io/a/b", "a/b:latest"),
            ("quay.io/a/b:c", "quay.io/a/b:c"),
        ] {
            assert_eq!(familiar(name).as_deref(), Some(short));
        }
        assert_eq!(reference_name("docker.io/library/redis:7"), "7");
        let by_digest = format!("docker.io/a@{}", image(&[]).digest);
        assert_eq!(reference_name(&by_digest), by_digest);
    }
}
