//! Capabilities that cannot be had: a container does without them, and the log
//! says so (OCI runtime specification, `config.md`, "Linux Process": values that
//! cannot be mapped or granted are a warning, and should not be a failure).

use caps::CapSet;
use libcontainer::capabilities::CapabilityExt;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shim_protocol::{Error, ErrorKind, Result};

/// The sets of a process.
const SETS: [&str; 5] = ["bounding", "effective", "permitted", "inheritable", "ambient"];

/// Decodes a description that has a process at `pointer` (RFC 6901), without
/// the capabilities of that process which nobody here knows.
///
/// # Errors
/// It is no such description.
pub(super) fn decode<T: DeserializeOwned>(text: &[u8], pointer: &str) -> serde_json::Result<T> {
    let error = match serde_json::from_slice(text) {
        Ok(decoded) => return Ok(decoded),
        Err(error) => error,
    };
    // The first error is the one that knows its place in the text.
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return Err(error) };
    let unknown = value.pointer_mut(pointer).map(take_unknown).unwrap_or_default();
    if unknown.is_empty() {
        return Err(error);
    }
    let decoded = serde_json::from_value(value)?;
    tracing::warn!("process.capabilities: unknown: {}", unknown.join(", "));
    Ok(decoded)
}

/// Removes them from all sets of `process`.
fn take_unknown(process: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let Some(sets) = process.get_mut("capabilities") else { return unknown };
    for set in SETS {
        let Some(Value::Array(names)) = sets.get_mut(set) else { continue };
        names.retain(|name| {
            let known =
                !name.is_string() || serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str())
                && !unknown.iter().any(|seen| seen == name)
            {
                unknown.push(name.to_owned());
            }
            known
        });
    }
    unknown
}

/// What we can hand on of `asked`: the kernel gives nobody more than its maker
/// has, outside a new user namespace.
///
/// # Errors
/// Those of the kernel.
pub(super) fn grantable(asked: &LinuxCapabilities) -> Result<LinuxCapabilities> {
    let held = caps::read(None, CapSet::Permitted)
        .map_err(|e| Error::caused(ErrorKind::Internal, "read our capabilities", e))?;
    Ok(limit(asked, |capability| held.contains(&capability.to_cap())))
}

fn limit(asked: &LinuxCapabilities, is_held: impl Fn(&Capability) -> bool) -> LinuxCapabilities {
    let mut missing = Vec::new();
    let mut held = |set: &Option<Capabilities>| {
        let (held, others) = set.iter().flatten().copied().partition(&is_held);
        let others: Capabilities = others;
        missing.extend(others);
        Some::<Capabilities>(held)
    };
    let mut granted = LinuxCapabilities::default();
    granted
        .set_bounding(held(asked.bounding()))
        .set_effective(held(asked.effective()))
        .set_permitted(held(asked.permitted()))
        .set_inheritable(held(asked.inheritable()))
        .set_ambient(held(asked.ambient()));
    if !missing.is_empty() {
        let mut names: Vec<_> = missing.iter().map(|one| one.to_cap().to_string()).collect();
        names.sort();
        names.dedup();
        tracing::warn!("process.capabilities: not to be had here: {}", names.join(", "));
    }
    granted
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Process, Spec};
    use serde_json::json;

    use super::*;

    fn process() -> Value {
        json!({
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["true"],
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_TOMORROW"], "ambient": ["CAP_TOMORROW"],
            },
        })
    }

    #[test]
    fn unknown_ones_are_left_out() {
        let text = json!({"ociVersion": "1.2.0", "process": process()}).to_string();
        let spec: Spec = decode(text.as_bytes(), "/process").unwrap();
        let process: Process = decode(process().to_string().as_bytes(), "").unwrap();
        for process in [spec.process().clone().unwrap(), process] {
            let held = process.capabilities().clone().unwrap();
            assert_eq!(held.bounding(), &Some([Capability::Kill].into()));
            assert_eq!(held.ambient(), &Some([].into()));
        }
    }

    #[test]
    fn other_mistakes_are_still_mistakes() {
        let sets = json!({"bounding": [7]});
        for (key, value) in [("cwd", json!(7)), ("capabilities", sets), ("capabilities", json!(7))]
        {
            let mut process = process();
            process[key] = value;
            assert!(decode::<Process>(process.to_string().as_bytes(), "").is_err(), "{key}");
        }
        for text in ["", "{", "[]", "null"] {
            assert!(decode::<Process>(text.as_bytes(), "").is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_maker_lacks_is_left_out_of_all_sets() {
        let mut asked = LinuxCapabilities::default();
        let both: Capabilities = [Capability::Kill, Capability::SysResource].into();
        asked.set_bounding(Some(both.clone())).set_effective(Some(both)).set_ambient(None);
        let granted = limit(&asked, |capability| *capability == Capability::Kill);
        for set in [granted.bounding(), granted.effective()] {
            assert_eq!(set, &Some([Capability::Kill].into()));
        }
        assert_eq!(granted.ambient(), &Some([].into()));
    }
}
