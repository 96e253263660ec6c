//! OCI runtime configurations, small enough to be understood at a glance.

use containerd_api::services::containers::v1::container::Runtime;
use prost_types::Any;
use serde_json::{Value, json};

/// Type URL of a spec, as containerd's clients write it.
const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Type URL of a process, which is what an exec needs.
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type URL of resource limits.
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// What a container is made from: the OCI configuration as JSON, and what the
/// daemon must know besides.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `config.json`.
    pub json: Value,
    /// Shim and its options.
    pub runtime: Runtime,
}

impl Spec {
    /// A container that runs `script` in busybox's shell.
    pub fn shell(script: &str, rootfs: &str, cgroup: &str, runtime: &str) -> Self {
        let json = json!({
            "ociVersion": "1.0.2",
            "process": process(&["/bin/sh", "-c", script]),
            "root": { "path": rootfs },
            "hostname": "box",
            "mounts": [
                mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", "devpts",
                    &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "size=65536k"]),
                mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            ],
            "linux": {
                "cgroupsPath": cgroup,
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" },
                    { "type": "mount" }, { "type": "network" },
                ],
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            },
        });
        Self { json, runtime: Runtime { name: runtime.into(), options: None } }
    }

    /// Sets the value at a JSON pointer; missing objects on the way are made.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.json;
        for key in pointer.split('/').skip(1) {
            place = &mut place[key.replace("~1", "/")];
        }
        *place = value;
        self
    }

    /// Runs `arguments` instead.
    #[must_use]
    pub fn args(self, arguments: &[&str]) -> Self {
        self.set("/process/args", json!(arguments))
    }

    /// With a terminal.
    #[must_use]
    pub fn terminal(self) -> Self {
        self.set("/process/terminal", json!(true))
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.json["annotations"][key] = json!(value);
        self
    }

    /// With at most so many bytes of memory.
    #[must_use]
    pub fn memory_limit(self, bytes: u64) -> Self {
        self.set("/linux/resources/memory/limit", json!(bytes))
    }

    /// With another runtime name, or the path of a shim.
    #[must_use]
    pub fn runtime(mut self, name: &str) -> Self {
        self.runtime.name = name.into();
        self
    }

    /// With options for the shim.
    #[must_use]
    pub fn options(mut self, options: Any) -> Self {
        self.runtime.options = Some(options);
        self
    }

    /// True if the process has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.json["process"]["terminal"] == json!(true)
    }

    /// The form in which it travels.
    pub fn to_any(&self) -> Any {
        any(SPEC_URL, &self.json)
    }
}

/// The process of an exec, in the form in which it travels.
pub(crate) fn exec(arguments: &[&str], terminal: bool) -> Any {
    let mut process = process(arguments);
    process["terminal"] = json!(terminal);
    any(PROCESS_URL, &process)
}

/// Resource limits in the form in which they travel.
pub(crate) fn resources(limits: &Value) -> Any {
    any(RESOURCES_URL, limits)
}

fn process(arguments: &[&str]) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": arguments,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
    })
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

fn any(url: &str, value: &Value) -> Any {
    Any { type_url: url.into(), value: value.to_string().into_bytes() }
}
