//! Field masks of updates.

use std::collections::BTreeMap;

use shim_protocol::{Error, Id, Result};

use super::Sandbox;

/// A field that an update may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Labels,
    Label(String),
    Extensions,
    Extension(String),
    Spec,
    Runtime,
}

const ALL: &[Field] = &[Field::Labels, Field::Extensions, Field::Spec, Field::Runtime];

/// Fields named by the paths of a mask.
///
/// # Errors
/// `InvalidArgument` for a path that is none of [`Field`].
pub(super) fn parse<S: AsRef<str>>(paths: &[S], id: &Id) -> Result<Vec<Field>> {
    paths.iter().map(|path| field(path.as_ref(), id)).collect()
}

fn field(path: &str, id: &Id) -> Result<Field> {
    // The key is all that follows the first dot: labels have dots themselves.
    match path.split_once('.') {
        Some(("labels", key)) => return Ok(Field::Label(key.into())),
        Some(("extensions", name)) => return Ok(Field::Extension(name.into())),
        _ => {}
    }
    match path {
        "labels" => Ok(Field::Labels),
        "extensions" => Ok(Field::Extensions),
        "spec" => Ok(Field::Spec),
        "runtime" => Ok(Field::Runtime),
        _ => Err(Error::invalid(format!("cannot update field {path:?} of sandbox {id:?}"))),
    }
}

/// `old` with the `fields` of `new`; all that may change if there are none.
///
/// # Errors
/// `InvalidArgument` when, with no fields, `new` has another runtime.
pub(super) fn apply(mut old: Sandbox, new: &Sandbox, fields: &[Field]) -> Result<Sandbox> {
    if fields.is_empty() {
        if old.runtime.name != new.runtime.name {
            let text = format!("field \"runtime.name\" of sandbox {:?} never changes", old.id);
            return Err(Error::invalid(text));
        }
        return apply(old, new, ALL);
    }
    for field in fields {
        match field {
            Field::Labels => old.labels = new.labels.clone(),
            Field::Label(key) => copy(&mut old.labels, &new.labels, key),
            Field::Extensions => old.extensions = new.extensions.clone(),
            Field::Extension(name) => copy(&mut old.extensions, &new.extensions, name),
            Field::Spec => old.spec = new.spec.clone(),
            Field::Runtime => old.runtime = new.runtime.clone(),
        }
    }
    Ok(old)
}

fn copy<V: Clone>(to: &mut BTreeMap<String, V>, from: &BTreeMap<String, V>, key: &str) {
    match from.get(key) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
}
