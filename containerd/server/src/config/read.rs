//! Which key of the file means what.

use std::{collections::BTreeMap, path::PathBuf};

use containerd_core::{content::Sharing, gc::SchedulerConfig};
use shim_protocol::{Context, Error, Id, Result};

use super::{
    Config, Grpc, LogFormat, ProxyPlugin, Snapshotters, Socket, Transfer, parse_level,
    reader::Reader, section,
};
use crate::plugins::PluginName;

/// The only one who makes and unpacks layers.
pub(super) const DIFFER: &str = "walking";

impl Config {
    /// Reads one table. Adds to `ineffective` what is set and cannot be done.
    pub(super) fn read(mut top: Reader<'_>, ineffective: &mut Vec<String>) -> Result<Self> {
        let mut config = Self::default();
        for key in ["version", "plugin_dir", "stream_processors"] {
            top.ignore(key);
        }
        set(&mut config.root, top.text("root")?);
        set(&mut config.state, top.text("state")?);
        config.temp = top.text("temp")?.filter(|path| !path.is_empty()).map(PathBuf::from);
        let range = "an integer from -1000 to 1000";
        if let Some(score) = top.integer::<i32>("oom_score", range)? {
            config.oom_score = score;
        }
        config.disabled_plugins = plugin_names("disabled_plugins", &mut top)?;
        config.required_plugins = plugin_names("required_plugins", &mut top)?;
        config.imports = top.texts("imports")?;

        let mut grpc = top.section("grpc")?;
        config.grpc.read(&mut grpc)?;
        for key in
            ["tcp_address", "tcp_tls_ca", "tcp_tls_cert", "tcp_tls_key", "tcp_tls_common_name"]
        {
            if grpc.text(key)?.is_some_and(|value| !value.is_empty()) {
                ineffective.push(format!("grpc.{key} has no effect: there is no TCP listener"));
            }
        }
        grpc.finish();
        let mut ttrpc = top.section("ttrpc")?;
        config.ttrpc.read(&mut ttrpc)?;
        ttrpc.finish();
        config.read_debug(top.section("debug")?, ineffective)?;
        config.read_metrics(top.section("metrics")?)?;

        let mut cgroup = top.section("cgroup")?;
        config.cgroup_path = cgroup.text("path")?.filter(|path| !path.is_empty());
        cgroup.finish();
        let mut timeouts = top.section("timeouts")?;
        for name in timeouts.keys() {
            config.timeouts.extend(timeouts.duration(&name)?.map(|duration| (name, duration)));
        }
        let mut proxies = top.section("proxy_plugins")?;
        for name in proxies.keys() {
            let proxy = ProxyPlugin::read(proxies.section(&name)?)?;
            if !matches!(proxy.kind.as_str(), "content" | "snapshot") {
                ineffective.push(format!(
                    "proxy_plugins.{name} has no effect: only snapshotters and content stores can \
                     be other processes"
                ));
            }
            config.proxy_plugins.insert(name, proxy);
        }
        config.read_plugins(top.section("plugins")?, ineffective)?;
        top.finish();
        Ok(config)
    }

    fn read_debug(&mut self, mut debug: Reader<'_>, ineffective: &mut Vec<String>) -> Result<()> {
        if debug.text("address")?.is_some_and(|address| !address.is_empty()) {
            ineffective.push("debug.address has no effect: there is no debug socket".into());
        }
        debug.integer::<u32>("uid", "a user's number")?;
        debug.integer::<u32>("gid", "a group's number")?;
        debug.boolean("log_trace_id")?;
        if let Some(level) = debug.text("level")?.filter(|level| !level.is_empty()) {
            self.log.level = parse_level(&level).context("key", "debug.level")?;
        }
        match debug.text("format")?.as_deref() {
            None | Some("") => {}
            Some("text") => self.log.format = LogFormat::Text,
            Some("json") => self.log.format = LogFormat::Json,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "key debug.format: expected \"text\" or \"json\", found {other:?}"
                )));
            }
        }
        debug.finish();
        Ok(())
    }

    fn read_plugins(
        &mut self,
        mut plugins: Reader<'_>,
        ineffective: &mut Vec<String>,
    ) -> Result<()> {
        let mut restart = plugins.section(section::RESTART)?;
        if let Some(interval) = restart.duration("interval")?.filter(|i| !i.is_zero()) {
            self.restart_interval = interval;
        }
        restart.finish();
        for name in [section::RUNTIME, section::SHIMS] {
            let mut shims = plugins.section(name)?;
            for variable in shims.texts("env")? {
                let Some((name, value)) = variable.split_once('=') else {
                    return Err(Error::invalid(format!(
                        "key env of {name}: expected NAME=VALUE, found {variable:?}"
                    )));
                };
                self.shim_env.push((name.to_owned(), value.to_owned()));
            }
            // There is one platform, and scheduling by core is the shim's default.
            shims.texts("platforms")?;
            shims.boolean("sched_core")?;
            if let Some(limit) = shims.integer("max_concurrent_starts", "a number")? {
                self.concurrency = limit;
            }
            shims.finish();
        }
        let mut diff = plugins.section(section::DIFF)?;
        for differ in diff.texts("default")?.into_iter().filter(|differ| differ != DIFFER) {
            ineffective.push(format!(
                "default of {}: there is no differ {differ:?}, {DIFFER:?} is used",
                section::DIFF
            ));
        }
        if let Some(sync) = diff.boolean("sync_fs")? {
            self.sync_layers = sync;
        }
        diff.finish();
        let mut metadata = plugins.section(section::METADATA)?;
        match metadata.text("content_sharing_policy")?.as_deref() {
            None | Some("") => {}
            Some("shared") => self.content_sharing = Sharing::Shared,
            Some("isolated") => self.content_sharing = Sharing::Isolated,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "key content_sharing_policy of {}: expected \"shared\" or \"isolated\", \
                     found {other:?}",
                    section::METADATA
                )));
            }
        }
        metadata.finish();
        let mut grpc = plugins.section(section::GRPC)?;
        self.grpc.read(&mut grpc)?;
        grpc.finish();
        let mut ttrpc = plugins.section(section::TTRPC)?;
        self.ttrpc.read(&mut ttrpc)?;
        ttrpc.finish();
        let mut gc = plugins.section(section::GC)?;
        read_gc(&mut self.gc, &mut gc)?;
        gc.finish();
        self.snapshotters.read(&mut plugins)?;
        let mut transfer = plugins.section(section::TRANSFER)?;
        self.transfer.read(&mut transfer)?;
        transfer.finish();
        self.read_legacy(&mut plugins)?;
        plugins.finish();
        Ok(())
    }
}

impl Config {
    fn read_metrics(&mut self, mut metrics: Reader<'_>) -> Result<()> {
        self.metrics.address = metrics.text("address")?.unwrap_or_default();
        self.metrics.grpc_histogram = metrics.boolean("grpc_histogram")?.unwrap_or_default();
        // Ours: containerd of 2015 had it as a flag.
        if let Some(interval) = metrics.duration("interval")? {
            self.metrics.interval = interval;
        }
        metrics.finish();
        Ok(())
    }

    fn read_legacy(&mut self, plugins: &mut Reader<'_>) -> Result<()> {
        let mut legacy = plugins.section(section::LEGACY)?;
        if let Some(namespace) = legacy.text("namespace")?.filter(|name| !name.is_empty()) {
            self.legacy.namespace =
                Id::new("namespace", &namespace).context("section", section::LEGACY)?;
        }
        self.legacy.runtime = legacy.text("runtime")?.unwrap_or_default();
        self.legacy.binary = legacy.text("binary_name")?.unwrap_or_default();
        self.legacy.id = legacy.text("id")?.unwrap_or_default();
        if let Some(notify) = legacy.boolean("oom_notify")? {
            self.legacy.oom_notify = notify;
        }
        legacy.finish();
        let mut rest = plugins.section(section::REST)?;
        self.rest.address = rest.text("address")?.unwrap_or_default();
        self.rest.allow_remote = rest.boolean("allow_remote")?.unwrap_or_default();
        rest.finish();
        Ok(())
    }
}

impl Socket {
    fn read(&mut self, section: &mut Reader<'_>) -> Result<()> {
        set(&mut self.address, section.text("address")?);
        if let Some(uid) = section.integer("uid", "a user's number")? {
            self.uid = uid;
        }
        if let Some(gid) = section.integer("gid", "a group's number")? {
            self.gid = gid;
        }
        Ok(())
    }
}

impl Grpc {
    fn read(&mut self, section: &mut Reader<'_>) -> Result<()> {
        self.socket.read(section)?;
        for (key, limit) in [
            ("max_recv_message_size", &mut self.max_recv_message_size),
            ("max_send_message_size", &mut self.max_send_message_size),
        ] {
            // Zero is containerd's way to say "the default".
            if let Some(size) = section.integer(key, "a size in bytes")?.filter(|size| *size > 0) {
                *limit = size;
            }
        }
        Ok(())
    }
}

impl Snapshotters {
    fn read(&mut self, plugins: &mut Reader<'_>) -> Result<()> {
        let mut overlay = plugins.section(section::OVERLAY)?;
        self.overlay_root = folder(&mut overlay)?;
        self.overlay.upperdir_label = overlay.boolean("upperdir_label")?.unwrap_or_default();
        self.overlay.slow_chown = overlay.boolean("slow_chown")?.unwrap_or_default();
        self.overlay.mount_options = overlay.texts("mount_options")?;
        self.overlay_sync_remove = overlay.boolean("sync_remove")?.unwrap_or_default();
        // An older way to say the opposite, which is the default.
        overlay.boolean("async_remove")?;
        overlay.finish();
        for (name, root) in
            [(section::NATIVE, &mut self.native_root), (section::BTRFS, &mut self.btrfs_root)]
        {
            let mut snapshotter = plugins.section(name)?;
            *root = folder(&mut snapshotter)?;
            snapshotter.finish();
        }
        Ok(())
    }
}

/// Where a snapshotter's folders are, if the file says it.
fn folder(section: &mut Reader<'_>) -> Result<Option<PathBuf>> {
    Ok(section.text("root_path")?.filter(|path| !path.is_empty()).map(PathBuf::from))
}

impl Transfer {
    fn read(&mut self, section: &mut Reader<'_>) -> Result<()> {
        for (key, limit) in [
            ("max_concurrent_downloads", &mut self.max_downloads),
            ("max_concurrent_uploaded_layers", &mut self.max_uploads),
        ] {
            if let Some(count) = section.integer(key, "a number")?.filter(|count| *count > 0) {
                *limit = count;
            }
        }
        if let Some(folders) = section.text("config_path")? {
            let folders = folders.split(':').filter(|folder| !folder.is_empty());
            self.hosts_dirs = folders.map(PathBuf::from).collect();
        }
        if let Some(tables) = section.sections("unpack_config")? {
            let unpacks = tables.iter().map(|table| {
                let text = |key: &str| {
                    table.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned()
                };
                let platform = text("platform");
                let os = platform.split(['/', '(']).next().unwrap_or_default();
                (os.to_owned(), text("snapshotter"))
            });
            self.unpack = Some(unpacks.collect());
        }
        // How these are done is not up to anybody.
        for key in
            ["check_platform_supported", "concurrent_layer_fetch_buffer", "max_concurrent_unpacks"]
        {
            section.ignore(key);
        }
        Ok(())
    }
}

impl ProxyPlugin {
    fn read(mut section: Reader<'_>) -> Result<Self> {
        let mut exports = BTreeMap::new();
        let mut table = section.section("exports")?;
        for name in table.keys() {
            exports.extend(table.text(&name)?.map(|value| (name, value)));
        }
        let proxy = Self {
            kind: section.text("type")?.unwrap_or_default(),
            address: section.text("address")?.unwrap_or_default(),
            platform: section.text("platform")?.unwrap_or_default(),
            exports,
            capabilities: section.texts("capabilities")?,
        };
        section.finish();
        Ok(proxy)
    }
}

fn read_gc(gc: &mut SchedulerConfig, section: &mut Reader<'_>) -> Result<()> {
    if let Some(part) = section.number("pause_threshold")? {
        // What is out of range counts as the limit (as in containerd).
        gc.pause_threshold = part.clamp(0.0, 0.5);
    }
    for (key, threshold) in [
        ("deletion_threshold", &mut gc.deletion_threshold),
        ("mutation_threshold", &mut gc.mutation_threshold),
    ] {
        if let Some(count) = section.integer::<i64>(key, "a number")? {
            *threshold = u64::try_from(count).unwrap_or_default();
        }
    }
    for (key, delay) in
        [("schedule_delay", &mut gc.schedule_delay), ("startup_delay", &mut gc.startup_delay)]
    {
        if let Some(duration) = section.duration(key)? {
            *delay = duration;
        }
    }
    Ok(())
}

fn plugin_names(key: &str, top: &mut Reader<'_>) -> Result<Vec<PluginName>> {
    let names = top.texts(key)?;
    names.into_iter().map(|name| PluginName::new(name).context("key", key)).collect()
}

/// Replaces `path` if `text` has something to say.
fn set(path: &mut PathBuf, text: Option<String>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        *path = text.into();
    }
}
