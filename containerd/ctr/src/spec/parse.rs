//! Values of flags, and the files that flags name.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Mount, MountBuilder,
};
use serde_json::{Map, Value};

/// The configuration in a file, with the labels as annotations.
pub(super) fn configuration(file: &Path, labels: &BTreeMap<String, String>) -> Result<Value> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let mut spec: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))?;
    let fields =
        spec.as_object_mut().ok_or_else(|| anyhow!("{} is no JSON object", file.display()))?;
    if !labels.is_empty() {
        let annotations = fields.entry("annotations").or_insert_with(|| Map::new().into());
        let annotations = annotations
            .as_object_mut()
            .ok_or_else(|| anyhow!("annotations in {} are no JSON object", file.display()))?;
        annotations.extend(labels.iter().map(|(key, value)| (key.clone(), value.clone().into())));
    }
    Ok(spec)
}

/// Variables, one in a line; empty lines and lines with a `#` first are none.
pub(super) fn env_file(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// A mount: `type=bind,src=/host,dst=/container,options=rbind:ro`.
pub(super) fn mount(text: &str) -> Result<Mount> {
    let mut mount = MountBuilder::default();
    let mut destination = false;
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| anyhow!("mount {text:?}: {field:?} is not key=value"))?;
        mount = match key {
            "type" => mount.typ(value),
            "source" | "src" => mount.source(value),
            "destination" | "dst" => {
                destination = true;
                mount.destination(value)
            }
            "options" => mount.options(value.split(':').map(str::to_owned).collect::<Vec<_>>()),
            _ => bail!("mount {text:?}: unknown key {key:?}"),
        };
    }
    if !destination {
        bail!("mount {text:?} has no destination (dst)");
    }
    Ok(mount.build()?)
}

/// A mapping of users or groups: `container:host:length`.
pub(super) fn id_mapping(text: &str) -> Result<LinuxIdMapping> {
    let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
    let Ok([container, host, length]) = numbers.as_deref() else {
        bail!("mapping {text:?} is not three numbers, such as 0:100000:65536");
    };
    let mapping =
        LinuxIdMappingBuilder::default().container_id(*container).host_id(*host).size(*length);
    Ok(mapping.build()?)
}

/// A type of namespace by its name in an OCI configuration.
pub(super) fn namespace_type(name: &str) -> Result<LinuxNamespaceType> {
    Ok(match name {
        "pid" => LinuxNamespaceType::Pid,
        "network" => LinuxNamespaceType::Network,
        "mount" => LinuxNamespaceType::Mount,
        "ipc" => LinuxNamespaceType::Ipc,
        "uts" => LinuxNamespaceType::Uts,
        "user" => LinuxNamespaceType::User,
        "cgroup" => LinuxNamespaceType::Cgroup,
        _ => bail!("unknown type of namespace {name:?}"),
    })
}
