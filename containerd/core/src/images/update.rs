//! Field masks of updates.

use std::collections::BTreeMap;

use shim_protocol::{Error, Result};

use super::Image;

/// A field that an update may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Labels,
    Label(String),
    /// All of it: digest, size and media type only make sense together.
    Target,
    Annotations,
    Annotation(String),
}

const ALL: &[Field] = &[Field::Labels, Field::Target];

/// Fields named by the paths of a mask; no path stands for all of them.
///
/// # Errors
/// `InvalidArgument` for a path that is none of [`Field`].
pub(super) fn parse<S: AsRef<str>>(paths: &[S], name: &str) -> Result<Vec<Field>> {
    paths.iter().map(|path| field(path.as_ref(), name)).collect()
}

fn field(path: &str, name: &str) -> Result<Field> {
    // The key is all that follows the first dot: labels have dots themselves.
    match path.split_once('.') {
        Some(("labels", key)) => return Ok(Field::Label(key.into())),
        Some(("annotations", key)) => return Ok(Field::Annotation(key.into())),
        _ => {}
    }
    match path {
        "labels" => Ok(Field::Labels),
        "target" => Ok(Field::Target),
        "annotations" => Ok(Field::Annotations),
        _ => Err(Error::invalid(format!("cannot update field {path:?} of image {name:?}"))),
    }
}

/// `old` with the `fields` of `new`; all that may change if there are none.
pub(super) fn apply(mut old: Image, new: &Image, fields: &[Field]) -> Image {
    let fields = if fields.is_empty() { ALL } else { fields };
    for field in fields {
        match field {
            Field::Labels => old.labels = new.labels.clone(),
            Field::Label(key) => copy(&mut old.labels, &new.labels, key),
            Field::Target => old.target = new.target.clone(),
            Field::Annotations => old.target.annotations = new.target.annotations.clone(),
            Field::Annotation(key) => {
                copy(&mut old.target.annotations, &new.target.annotations, key);
            }
        }
    }
    old
}

fn copy(to: &mut BTreeMap<String, String>, from: &BTreeMap<String, String>, key: &str) {
    match from.get(key) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
}
