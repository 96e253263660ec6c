//! The parts of the daemon, under the names that containerd gives them.
//!
//! They are no plugins here: they are built in, and know each other by type.
//! But clients ask for the list, and files switch parts off by name.

use std::fmt;

use shim_protocol::{Error, Result};

/// Type and id of a plugin with a dot between them, such as
/// `io.containerd.grpc.v1.tasks`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PluginName(String);

impl PluginName {
    /// # Errors
    /// `InvalidArgument` when it is not the full name of a plugin.
    pub(crate) fn new(name: String) -> Result<Self> {
        if name.split('.').count() < 4 {
            return Err(Error::invalid(format!(
                "{name:?} is not the name of a plugin, such as io.containerd.grpc.v1.tasks"
            )));
        }
        Ok(Self(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of the daemon.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// What containerd calls the type.
    pub(crate) kind: &'static str,
    pub(crate) id: &'static str,
    /// Types of plugins that it builds upon.
    pub(crate) requires: &'static [&'static str],
    /// Does it depend on the platform?
    pub(crate) platform: bool,
    /// Can the daemon do without it?
    pub(crate) optional: bool,
}

impl Plugin {
    /// Type and id with a dot between them.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.kind, self.id)
    }
}

pub(crate) const CONTENT: &str = "io.containerd.content.v1";
pub(crate) const DIFFER: &str = "io.containerd.differ.v1";
pub(crate) const EVENT: &str = "io.containerd.event.v1";
pub(crate) const GC: &str = "io.containerd.gc.v1";
pub(crate) const GRPC: &str = "io.containerd.grpc.v1";
pub(crate) const INTERNAL: &str = "io.containerd.internal.v1";
pub(crate) const LEGACY: &str = "io.containerd.legacy.v1";
pub(crate) const METADATA: &str = "io.containerd.metadata.v1";
pub(crate) const RUNTIME: &str = "io.containerd.runtime.v2";
pub(crate) const SANDBOX_STORE: &str = "io.containerd.sandbox.store.v1";
pub(crate) const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
pub(crate) const SERVICE: &str = "io.containerd.service.v1";
pub(crate) const STREAMING: &str = "io.containerd.streaming.v1";
pub(crate) const TRANSFER: &str = "io.containerd.transfer.v1";

/// Full name of the restart monitor.
pub(crate) const RESTART: &str = "io.containerd.internal.v1.restart";

/// Full name of the REST API.
pub(crate) const REST: &str = "io.containerd.legacy.v1.rest";

/// All parts, each after those that it builds upon.
pub(crate) const ALL: &[Plugin] = &[
    // Another process may be in its place; see `Config::content_place`.
    Plugin { optional: true, ..part(CONTENT, "content", &[]) },
    snapshotter("btrfs"),
    snapshotter("native"),
    snapshotter("overlayfs"),
    part(METADATA, "redb", &[CONTENT, SNAPSHOTTER]),
    part(GC, "scheduler", &[METADATA]),
    part(EVENT, "exchange", &[]),
    part(SERVICE, "introspection-service", &[]),
    part(SERVICE, "containers-service", &[EVENT, METADATA]),
    part(SERVICE, "content-service", &[METADATA]),
    Plugin { platform: true, ..part(DIFFER, "walking", &[METADATA]) },
    part(SERVICE, "diff-service", &[DIFFER]),
    part(SERVICE, "images-service", &[GC, METADATA]),
    part(SERVICE, "leases-service", &[GC, METADATA]),
    part(SERVICE, "namespaces-service", &[EVENT, METADATA]),
    part(SANDBOX_STORE, "local", &[METADATA]),
    part(SERVICE, "snapshots-service", &[METADATA]),
    part(STREAMING, "manager", &[METADATA]),
    part(TRANSFER, "local", &[DIFFER, METADATA, SNAPSHOTTER]),
    Plugin { platform: true, ..part(RUNTIME, "task", &[EVENT, METADATA]) },
    part(SERVICE, "tasks-service", &[EVENT, RUNTIME, METADATA]),
    Plugin { optional: true, ..part(INTERNAL, "restart", &[EVENT, SERVICE]) },
    part(LEGACY, "containers", &[EVENT, SERVICE]),
    Plugin { optional: true, ..part(LEGACY, "rest", &[LEGACY]) },
    service("containers", &[SERVICE]),
    service("content", &[SERVICE]),
    service("diff", &[SERVICE]),
    service("events", &[EVENT]),
    service("healthcheck", &[]),
    service("images", &[SERVICE]),
    service("introspection", &[SERVICE]),
    service("leases", &[SERVICE]),
    service("legacy", &[LEGACY]),
    service("namespaces", &[SERVICE]),
    service("sandboxes", &[SANDBOX_STORE]),
    service("snapshots", &[SERVICE]),
    service("streaming", &[STREAMING]),
    service("tasks", &[SERVICE]),
    service("transfer", &[TRANSFER, STREAMING]),
    service("version", &[]),
];

const fn part(kind: &'static str, id: &'static str, requires: &'static [&'static str]) -> Plugin {
    Plugin { kind, id, requires, platform: false, optional: false }
}

/// Clients may have another one.
const fn snapshotter(id: &'static str) -> Plugin {
    Plugin { platform: true, optional: true, ..part(SNAPSHOTTER, id, &[]) }
}

/// A gRPC service: what clients do not need may be switched off.
const fn service(id: &'static str, requires: &'static [&'static str]) -> Plugin {
    Plugin { kind: GRPC, id, requires, platform: false, optional: true }
}

/// Are all that must be here, and none that must not be left out?
///
/// # Errors
/// `FailedPrecondition` naming the plugin.
pub(crate) fn check(required: &[PluginName], disabled: &[PluginName]) -> Result<()> {
    for name in required {
        if disabled.contains(name) {
            return Err(Error::precondition(format!("required plugin {name} is disabled")));
        }
        if !ALL.iter().any(|plugin| plugin.name() == name.as_str()) {
            return Err(Error::precondition(format!(
                "required plugin {name} is not part of this daemon"
            )));
        }
    }
    for name in disabled {
        if ALL.iter().any(|plugin| !plugin.optional && plugin.name() == name.as_str()) {
            return Err(Error::precondition(format!("plugin {name} cannot be disabled")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<PluginName> {
        names.iter().map(|name| PluginName::new((*name).to_owned()).unwrap()).collect()
    }

    #[test]
    fn each_comes_after_what_it_requires() {
        for (position, plugin) in ALL.iter().enumerate() {
            for required in plugin.requires {
                let before = ALL[..position].iter().any(|other| other.kind == *required);
                assert!(before, "{} requires {required}", plugin.name());
            }
        }
    }

    #[test]
    fn what_others_have_may_be_disabled_but_not_required() {
        let cri = names(&["io.containerd.grpc.v1.cri"]);
        check(&[], &cri).unwrap();
        let error = check(&cri, &[]).unwrap_err();
        assert!(error.to_string().contains("io.containerd.grpc.v1.cri"));
    }

    #[test]
    fn what_is_needed_stays() {
        let runtime = names(&["io.containerd.runtime.v2.task"]);
        let leases = names(&["io.containerd.grpc.v1.leases"]);
        check(&runtime, &leases).unwrap();
        check(&[], &runtime).unwrap_err();
        check(&leases, &leases).unwrap_err();
    }

    #[test]
    fn short_names_are_refused() {
        PluginName::new("cri".into()).unwrap_err();
    }
}
