//! Version 1 of the file named plugins by their last part alone.

use toml::{Table, Value};

/// Plugins that had short names before version 2 and full ones since
/// (containerd, `v1MigratePluginName`).
const NAMES: [(&str, &str); 16] = [
    ("aufs", "io.containerd.snapshotter.v1.aufs"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("btrfs", "io.containerd.snapshotter.v1.btrfs"),
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("cri", "io.containerd.grpc.v1.cri"),
    ("devmapper", "io.containerd.snapshotter.v1.devmapper"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("native", "io.containerd.snapshotter.v1.native"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("otlp", "io.containerd.tracing.processor.v1.otlp"),
    ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
    ("restart", "io.containerd.internal.v1.restart"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("task", "io.containerd.runtime.v2.task"),
    ("tracing", "io.containerd.internal.v1.tracing"),
    ("zfs", "io.containerd.snapshotter.v1.zfs"),
];

/// Gives plugins their full names.
pub(super) fn migrate(table: &mut Table) {
    if let Some(Value::Table(plugins)) = table.get_mut("plugins") {
        let old = std::mem::take(plugins);
        plugins.extend(old.into_iter().map(|(name, section)| (full_name(&name), section)));
    }
    for key in ["disabled_plugins", "required_plugins"] {
        if let Some(Value::Array(names)) = table.get_mut(key) {
            for name in names {
                if let Value::String(name) = name {
                    *name = full_name(name);
                }
            }
        }
    }
}

fn full_name(name: &str) -> String {
    if name.contains('.') {
        return name.to_owned();
    }
    if let Some((_, full)) = NAMES.iter().find(|(short, _)| *short == name) {
        return (*full).to_owned();
    }
    let kind = if name.ends_with("-service") { "service" } else { "grpc" };
    format!("io.containerd.{kind}.v1.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full_ones() {
        let mut table: Table = "
            disabled_plugins = ['cri', 'tasks-service', 'io.containerd.x.v1.y']
            [plugins.restart]
            interval = '3s'"
            .parse()
            .unwrap();
        migrate(&mut table);
        let expected: Table = "
            disabled_plugins = [
                'io.containerd.grpc.v1.cri',
                'io.containerd.service.v1.tasks-service',
                'io.containerd.x.v1.y',
            ]
            [plugins.'io.containerd.internal.v1.restart']
            interval = '3s'"
            .parse()
            .unwrap();
        assert_eq!(table, expected);
    }
}
