//! Reads configuration files and joins them into one table.

use std::{
    collections::{BTreeSet, VecDeque},
    path::{Component, Path, PathBuf},
};

use shim_protocol::{Context, Error, Result};
use toml::{Table, Value};

use super::{glob, v1};

/// The newest version we understand.
pub(super) const LATEST_VERSION: i64 = 4;

/// The joined content of a file and all that it imports.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) table: Table,
    /// Every file with its own content, the first one first.
    pub(super) files: Vec<(PathBuf, Table)>,
    /// What the operator should know.
    pub(super) warnings: Vec<String>,
}

/// Reads `path` and its imports, those of the imports included; each file is
/// read once. Later files go before earlier ones, see [`merge`].
///
/// # Errors
/// When a file cannot be read, is no TOML, or has a version that we do not know.
pub(super) fn load(path: &Path) -> Result<Loaded> {
    let mut loaded = Loaded { table: Table::new(), files: Vec::new(), warnings: Vec::new() };
    let mut seen = BTreeSet::new();
    let mut pending = VecDeque::from([path.to_owned()]);
    while let Some(path) = pending.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = std::fs::read_to_string(&path).context("read configuration", path.display())?;
        let mut table: Table = text.parse().map_err(|e: toml::de::Error| {
            Error::caused(
                shim_protocol::ErrorKind::InvalidArgument,
                format!("configuration {}", path.display()),
                e,
            )
        })?;
        check_version(&mut table, &mut loaded.warnings).context("configuration", path.display())?;
        pending.extend(imports(&path, &table)?);
        merge(&mut loaded.table, table.clone());
        loaded.files.push((path, table));
    }
    Ok(loaded)
}

/// Brings a file of version 1, which may leave its version out, to version 2.
fn check_version(table: &mut Table, warnings: &mut Vec<String>) -> Result<()> {
    let version = match table.get("version") {
        None => 1,
        Some(Value::Integer(version)) => *version,
        Some(other) => {
            let found = other.type_str();
            return Err(Error::invalid(format!("key version: expected an integer, found {found}")));
        }
    };
    match version {
        0 | 1 => {
            warnings.push("configuration version 1 is deprecated, write \"version = 3\"".into());
            v1::migrate(table);
            Ok(())
        }
        2..=LATEST_VERSION => Ok(()),
        other => Err(Error::invalid(format!(
            "key version: expected 1 to {LATEST_VERSION}, found {other}"
        ))),
    }
}

/// The files that a file imports. A relative path begins at the folder of the
/// file; stars match as in a shell.
fn imports(file: &Path, table: &Table) -> Result<Vec<PathBuf>> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut paths = Vec::new();
    let Some(Value::Array(imports)) = table.get("imports") else { return Ok(paths) };
    for import in imports.iter().filter_map(Value::as_str) {
        let path = clean(&folder.join(import));
        if import.contains('*') {
            paths.extend(glob::expand(&path).context("expand import", import)?);
        } else {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The path without `.` and `..`, so that a file is known by one name.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

/// Joins `from` into `to` the way containerd does (`mergeConfig` in
/// `cmd/containerd/server/config`): tables key by key, arrays gain the items
/// they do not have, and other values are replaced unless the new one is
/// empty, zero or false.
pub(super) fn merge(to: &mut Table, from: Table) {
    for (key, value) in from {
        match (to.get_mut(&key), value) {
            (Some(Value::Table(to)), Value::Table(from)) => merge(to, from),
            (Some(Value::Array(to)), Value::Array(from)) => {
                for item in from {
                    if !to.contains(&item) {
                        to.push(item);
                    }
                }
            }
            (Some(_), value) if is_zero(&value) => {}
            (_, value) => {
                to.insert(key, value);
            }
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Integer(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::Boolean(truth) => !truth,
        Value::Datetime(_) => false,
        Value::Array(items) => items.is_empty(),
        Value::Table(table) => table.is_empty(),
    }
}
