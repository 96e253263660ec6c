//! Field masks of updates.

use std::collections::BTreeMap;

use shim_protocol::{Error, Id, Result};

use super::Container;

/// A field that an update may change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Labels,
    Label(String),
    Extensions,
    Extension(String),
    Spec,
    Image,
    SnapshotKey,
}

const ALL: &[Field] =
    &[Field::Labels, Field::Extensions, Field::Spec, Field::Image, Field::SnapshotKey];

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
        "image" => Ok(Field::Image),
        // The first is containerd's spelling, the second that of protobuf.
        "snapshotkey" | "snapshot_key" => Ok(Field::SnapshotKey),
        _ => Err(Error::invalid(format!("cannot update field {path:?} of container {id:?}"))),
    }
}

/// `old` with the `fields` of `new`; all that may change if there are none.
///
/// # Errors
/// `InvalidArgument` when, with no fields, `new` differs in one that may not change.
pub(super) fn apply(mut old: Container, new: &Container, fields: &[Field]) -> Result<Container> {
    if fields.is_empty() {
        refuse_fixed(&old, new)?;
        return apply(old, new, ALL);
    }
    for field in fields {
        match field {
            Field::Labels => old.labels = new.labels.clone(),
            Field::Label(key) => copy(&mut old.labels, &new.labels, key),
            Field::Extensions => old.extensions = new.extensions.clone(),
            Field::Extension(name) => copy(&mut old.extensions, &new.extensions, name),
            Field::Spec => old.spec = new.spec.clone(),
            Field::Image => old.image = new.image.clone(),
            Field::SnapshotKey => old.snapshot_key = new.snapshot_key.clone(),
        }
    }
    Ok(old)
}

/// Differences are refused rather than ignored, so that these fields may
/// become changeable one day.
fn refuse_fixed(old: &Container, new: &Container) -> Result<()> {
    let field = if old.snapshotter != new.snapshotter {
        "snapshotter"
    } else if old.runtime.name != new.runtime.name {
        "runtime.name"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("field {field:?} of container {:?} never changes", old.id)))
}

fn copy<V: Clone>(to: &mut BTreeMap<String, V>, from: &BTreeMap<String, V>, key: &str) {
    match from.get(key) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
}
