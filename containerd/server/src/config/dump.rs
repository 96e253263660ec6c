//! Writes the configuration as a file of the newest common version.

use std::path::PathBuf;

use containerd_core::content::Sharing;
use toml::{Table, Value};

use super::{Config, LogFormat, Socket, duration, read::DIFFER, section};

/// Version of the file that is written: the newest that most daemons read.
const VERSION: i64 = 3;

impl Config {
    /// The whole configuration as TOML.
    pub(crate) fn to_toml(&self) -> String {
        let mut top = Table::new();
        top.insert("version".into(), VERSION.into());
        top.insert("root".into(), text(&self.root));
        top.insert("state".into(), text(&self.state));
        top.insert("temp".into(), self.temp.as_ref().map_or(Value::String(String::new()), text));
        top.insert("oom_score".into(), self.oom_score.into());
        for (key, names) in [
            ("disabled_plugins", &self.disabled_plugins),
            ("required_plugins", &self.required_plugins),
        ] {
            top.insert(
                key.into(),
                names.iter().map(|n| n.as_str().to_owned()).collect::<Vec<_>>().into(),
            );
        }
        top.insert("imports".into(), self.imports.clone().into());

        let mut grpc = socket(&self.grpc.socket);
        for (key, size) in [
            ("max_recv_message_size", self.grpc.max_recv_message_size),
            ("max_send_message_size", self.grpc.max_send_message_size),
        ] {
            grpc.insert(key.into(), Value::Integer(i64::try_from(size).unwrap_or(i64::MAX)));
        }
        top.insert("grpc".into(), grpc.into());
        top.insert("ttrpc".into(), socket(&self.ttrpc).into());
        top.insert("debug".into(), self.debug().into());
        let metrics = table([
            ("address", self.metrics.address.clone().into()),
            ("grpc_histogram", self.metrics.grpc_histogram.into()),
            ("interval", duration::format(self.metrics.interval).into()),
        ]);
        top.insert("metrics".into(), metrics.into());
        let path = self.cgroup_path.clone().unwrap_or_default();
        top.insert("cgroup".into(), table([("path", path.into())]).into());
        let timeouts: Table = self
            .timeouts
            .iter()
            .map(|(name, limit)| (name.clone(), duration::format(*limit).into()))
            .collect();
        top.insert("timeouts".into(), timeouts.into());
        top.insert("proxy_plugins".into(), self.proxies().into());
        top.insert("plugins".into(), self.plugins().into());
        top.to_string()
    }

    fn debug(&self) -> Table {
        let format = match self.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        table([("level", self.log.level.to_string().into()), ("format", format.into())])
    }

    fn proxies(&self) -> Table {
        let proxy = |proxy: &super::ProxyPlugin| {
            let exports: Table =
                proxy.exports.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            table([
                ("type", proxy.kind.clone().into()),
                ("address", proxy.address.clone().into()),
                ("platform", proxy.platform.clone().into()),
                ("exports", exports.into()),
                ("capabilities", proxy.capabilities.clone().into()),
            ])
        };
        self.proxy_plugins.iter().map(|(name, p)| (name.clone(), proxy(p).into())).collect()
    }

    fn gc(&self) -> Table {
        let count = |count: u64| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
        table([
            ("pause_threshold", self.gc.pause_threshold.into()),
            ("deletion_threshold", count(self.gc.deletion_threshold)),
            ("mutation_threshold", count(self.gc.mutation_threshold)),
            ("schedule_delay", duration::format(self.gc.schedule_delay).into()),
            ("startup_delay", duration::format(self.gc.startup_delay).into()),
        ])
    }

    fn transfer(&self) -> Table {
        let count = |count: usize| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
        let super::Transfer { max_downloads, max_uploads, hosts_dirs, unpack } = &self.transfer;
        let folders: Vec<_> = hosts_dirs.iter().map(|f| f.to_string_lossy()).collect();
        let mut section = table([
            ("max_concurrent_downloads", count(*max_downloads)),
            ("max_concurrent_uploaded_layers", count(*max_uploads)),
            ("config_path", folders.join(":").into()),
        ]);
        if let Some(unpacks) = unpack {
            let unpacks = unpacks.iter().map(|(os, snapshotter)| {
                let (os, snapshotter) = (os.clone().into(), snapshotter.clone().into());
                Value::Table(table([("platform", os), ("snapshotter", snapshotter)]))
            });
            section.insert("unpack_config".into(), Value::Array(unpacks.collect()));
        }
        section
    }

    fn legacy(&self) -> Table {
        let super::Legacy { namespace, runtime, binary, id, oom_notify } = &self.legacy;
        table([
            ("namespace", namespace.as_str().into()),
            ("runtime", runtime.clone().into()),
            ("binary_name", binary.clone().into()),
            ("id", id.clone().into()),
            ("oom_notify", (*oom_notify).into()),
        ])
    }

    fn rest(&self) -> Table {
        let super::Rest { address, allow_remote } = &self.rest;
        table([("address", address.clone().into()), ("allow_remote", (*allow_remote).into())])
    }

    fn plugins(&self) -> Table {
        let interval = duration::format(self.restart_interval);
        let env: Vec<String> =
            self.shim_env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let sharing = match self.content_sharing {
            Sharing::Shared => "shared",
            Sharing::Isolated => "isolated",
        };
        let diff = table([
            ("default", vec![DIFFER.to_owned()].into()),
            ("sync_fs", self.sync_layers.into()),
        ]);
        let snapshotters = &self.snapshotters;
        let root = |path: &Option<PathBuf>| {
            ("root_path", path.as_ref().map_or(Value::String(String::new()), text))
        };
        let overlay = table([
            root(&snapshotters.overlay_root),
            ("upperdir_label", snapshotters.overlay.upperdir_label.into()),
            ("sync_remove", snapshotters.overlay_sync_remove.into()),
            ("slow_chown", snapshotters.overlay.slow_chown.into()),
            ("mount_options", snapshotters.overlay.mount_options.clone().into()),
        ]);
        table([
            (section::DIFF, diff.into()),
            (section::GC, self.gc().into()),
            (section::BTRFS, table([root(&snapshotters.btrfs_root)]).into()),
            (section::NATIVE, table([root(&snapshotters.native_root)]).into()),
            (section::OVERLAY, overlay.into()),
            (section::METADATA, table([("content_sharing_policy", sharing.into())]).into()),
            (section::RESTART, table([("interval", interval.into())]).into()),
            (section::TRANSFER, self.transfer().into()),
            (section::LEGACY, self.legacy().into()),
            (section::REST, self.rest().into()),
            (
                section::SHIMS,
                table([
                    ("env", env.into()),
                    (
                        "max_concurrent_starts",
                        Value::Integer(i64::try_from(self.concurrency).unwrap_or(i64::MAX)),
                    ),
                ])
                .into(),
            ),
        ])
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn socket(socket: &Socket) -> Table {
    table([
        ("address", text(&socket.address)),
        ("uid", socket.uid.into()),
        ("gid", socket.gid.into()),
    ])
}

fn text(path: impl AsRef<std::path::Path>) -> Value {
    path.as_ref().to_string_lossy().into_owned().into()
}
