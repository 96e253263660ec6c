//! OCI configurations of containers.
//!
//! [`SpecBuilder`] starts where containerd's own clients start: its default
//! capabilities, mounts, namespaces, device rules, masked and read-only paths.

mod build;
mod capabilities;
mod defaults;
mod devices;
mod seccomp;
mod user;

use oci_spec::runtime::Process;
use prost_types::Any;
use serde::Serialize;
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

pub use build::SpecBuilder;
pub use user::resolve_user;

/// Type URL of an OCI configuration, with JSON as its value.
pub const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Type URL of an OCI process, with JSON as its value.
pub const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type URL of OCI Linux resources, with JSON as their value.
pub const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A document as JSON with a stable order: sets of capabilities, which have
/// none of their own, are sorted.
///
/// # Errors
/// `InvalidArgument` when it cannot be made into JSON.
pub fn to_json(document: &impl Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(document).map_err(|e| {
        Error::caused(ErrorKind::InvalidArgument, "make an OCI document into JSON", e)
    })?;
    sort_capabilities(&mut value);
    if let Some(process) = value.get_mut("process") {
        sort_capabilities(process);
    }
    Ok(value)
}

fn sort_capabilities(process: &mut Value) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
}

/// An OCI document as the wire wants it.
pub(crate) fn to_any(type_url: &str, document: &impl Serialize) -> Result<Any> {
    Ok(Any { type_url: type_url.into(), value: to_json(document)?.to_string().into_bytes() })
}

/// Sets environment variables of a process: `KEY=value` sets, `KEY` alone
/// removes, and those that are there keep their place.
pub fn set_env<S: Into<String>>(process: &mut Process, variables: impl IntoIterator<Item = S>) {
    let mut env = process.env().clone().unwrap_or_default();
    merge_env(&mut env, variables);
    process.set_env(Some(env));
}

fn merge_env<S: Into<String>>(env: &mut Vec<String>, variables: impl IntoIterator<Item = S>) {
    fn key(variable: &str) -> &str {
        variable.split_once('=').map_or(variable, |(key, _)| key)
    }
    for variable in variables {
        let variable = variable.into();
        let place = env.iter().position(|v| key(v) == key(&variable));
        match (place, variable.contains('=')) {
            (Some(i), true) => env[i] = variable,
            (Some(i), false) => {
                env.remove(i);
            }
            (None, true) => env.push(variable),
            (None, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_replace_append_and_remove() {
        let mut env = vec!["PATH=/bin".to_owned(), "HOME=/".to_owned()];
        merge_env(&mut env, ["HOME=/root", "TERM=xterm", "PATH", "NONE", "EMPTY="]);
        assert_eq!(env, ["HOME=/root", "TERM=xterm", "EMPTY="]);
    }

    #[test]
    fn json_has_one_order() {
        let spec = SpecBuilder::new("default", "web").build().unwrap();
        let json = to_json(&spec).unwrap();
        let bounding = json["process"]["capabilities"]["bounding"].as_array().unwrap();
        assert_eq!(bounding[0], "CAP_AUDIT_WRITE");
        assert!(bounding.is_sorted_by_key(|c| c.as_str().unwrap().to_owned()));
    }
}
