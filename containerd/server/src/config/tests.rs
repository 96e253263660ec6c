use std::fs;

use shim_protocol::ErrorKind;

use super::*;

/// Loads files, the first of which is the one that is named to the daemon.
fn load(files: &[(&str, &str)]) -> Result<(Config, Vec<String>)> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Config::load(Some(&folder.path().join(files[0].0)), Overrides::default())
}

fn failure(text: &str) -> String {
    let error = load(&[("config.toml", text)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    error.report().to_string()
}

#[test]
fn without_a_file_the_defaults_hold() {
    let (config, warnings) = Config::load(None, Overrides::default()).unwrap();
    assert_eq!(config.grpc.socket.address, Path::new("/run/containerd/containerd.sock"));
    assert_eq!(config.ttrpc.address, Path::new("/run/containerd/containerd.sock.ttrpc"));
    assert_eq!(config.grpc.max_recv_message_size, 16 * 1024 * 1024);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn what_is_dumped_is_read_again() {
    let (config, _) = load(&[(
        "config.toml",
        r#"
        version = 2
        root = "/r"
        state = "/s"
        temp = "/t"
        oom_score = -999
        disabled_plugins = ["io.containerd.grpc.v1.cri"]
        required_plugins = ["io.containerd.grpc.v1.tasks"]
        [grpc]
        address = "/r/c.sock"
        gid = 7
        max_recv_message_size = 1000
        [debug]
        level = "debug"
        format = "json"
        [cgroup]
        path = "/daemons"
        [timeouts]
        "io.containerd.timeout.shim.load" = "1m30s"
        [plugins."io.containerd.gc.v1.scheduler"]
        pause_threshold = 0.25
        deletion_threshold = 7
        mutation_threshold = 0
        schedule_delay = "1.5ms"
        startup_delay = "1h"
        [proxy_plugins.stargz]
        type = "snapshot"
        address = "/run/stargz.sock"
        exports = { root = "/var/lib/stargz" }
        capabilities = ["remap-ids"]
        [proxy_plugins.other]
        type = "diff"
        address = "/run/other.sock"
        [plugins."io.containerd.snapshotter.v1.overlayfs"]
        root_path = "/overlays"
        upperdir_label = true
        sync_remove = true
        mount_options = ["volatile"]
        [plugins."io.containerd.snapshotter.v1.btrfs"]
        root_path = "/btrfs"
        [plugins."io.containerd.internal.v1.restart"]
        interval = "250ms"
        [plugins."io.containerd.shim.v1.manager"]
        env = ["A=b", "C="]
        "#,
    )])
    .unwrap();
    assert_eq!(config.shim_timeouts().load, Duration::from_secs(90));
    assert_eq!(config.shim_timeouts().cleanup, Duration::from_secs(5));
    assert_eq!((config.ttrpc.uid, config.ttrpc.gid), (0, 7));
    assert_eq!(config.restart_interval, Duration::from_millis(250));
    assert_eq!(config.log, Log { level: LevelFilter::DEBUG, format: LogFormat::Json });
    let (again, warnings) = load(&[("config.toml", &config.to_toml())]).unwrap();
    assert_eq!(again, config);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("proxy_plugins.other has no effect"), "{warnings:?}");
    let snapshotters = &config.snapshotters;
    assert_eq!(snapshotters.overlay.mount_options, ["volatile"]);
    assert!(snapshotters.overlay.upperdir_label && snapshotters.overlay_sync_remove);
    assert_eq!(snapshotters.btrfs_root.as_deref(), Some(Path::new("/btrfs")));
    assert_eq!(snapshotters.native_root, None);
}

#[test]
fn one_content_store_is_used() {
    let proxy =
        |name: &str| format!("[proxy_plugins.{name}]\ntype = 'content'\naddress = '/{name}'\n");
    let off = |names: &[&str]| {
        let names = names.iter().map(|name| format!("'io.containerd.content.v1.{name}'"));
        format!("version = 3\ndisabled_plugins = [{}]\n", names.collect::<Vec<_>>().join(","))
    };
    let (a, b) = (proxy("a"), proxy("b"));
    for (text, expected) in [
        (off(&[]), Ok("content")),
        (off(&["a"]) + &a, Ok("content")),
        (off(&["content"]) + &a, Ok("a")),
        (off(&["content", "a"]) + &a + &b, Ok("b")),
        (off(&[]) + &a, Err("content, a")),
        (off(&["content"]) + &a + &b, Err("a, b")),
        (off(&["content"]), Err("cannot be disabled without another")),
        (off(&["content", "a"]) + &a, Err("cannot be disabled without another")),
    ] {
        match (load(&[("config.toml", &text)]), expected) {
            (Ok((config, warnings)), Ok(expected)) => {
                assert_eq!(warnings, Vec::<String>::new());
                let found = match config.content_place().unwrap() {
                    ContentPlace::Root => "content",
                    ContentPlace::Proxy(name, proxy) => {
                        assert_eq!(proxy.address, format!("/{name}"));
                        name
                    }
                };
                assert_eq!(found, expected, "{text}");
            }
            (Err(error), Err(expected)) => {
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
                assert!(error.report().to_string().contains(expected), "{error:?}");
            }
            (found, expected) => panic!("{text}: {found:?}, {expected:?} was expected"),
        }
    }
}

#[test]
fn a_wrong_type_names_key_and_file() {
    for (text, key) in [
        ("version = 3\nroot = 1", "key root: expected a string, found integer"),
        ("version = 3\n[grpc]\nuid = 'a'", "key grpc.uid: expected an integer, found string"),
        ("version = 3\n[grpc]\nuid = -1", "key grpc.uid: expected a user's number, found -1"),
        ("version = 3\ngrpc = 1", "key grpc: expected a table, found integer"),
        ("version = 3\n[timeouts]\na = 'x'", "key timeouts.a: expected a duration"),
        ("version = 3\nimports = 'x'", "key imports: expected an array of strings"),
        ("version = 3\noom_score = 1001", "key oom_score: expected an integer from -1000 to 1000"),
        ("version = 3\n[debug]\nlevel = 'loud'", "key debug.level"),
        ("version = 3\n[debug]\nformat = 'xml'", "key debug.format"),
        ("version = 3\ndisabled_plugins = ['cri']", "\"cri\" is not the name of a plugin"),
        ("version = 3\nroot = 'r'", "key root: expected an absolute path"),
        ("version = 3\ngrpc = { address = 'a' }", "key grpc.address: expected an absolute path"),
        (
            "version = 3\n[plugins.'io.containerd.internal.v1.restart']\ninterval = 1",
            "key plugins.\"io.containerd.internal.v1.restart\".interval: expected a string",
        ),
        ("version = 9", "key version: expected 1 to 4, found 9"),
        ("version = '2'", "key version: expected an integer, found string"),
    ] {
        let report = failure(text);
        assert!(report.contains(key), "{report}");
    }
    assert!(failure("version = 3\nroot = 1").contains("config.toml"));
    assert!(failure("version = ").contains("config.toml"));
}

#[test]
fn unknown_keys_are_named() {
    let (_, warnings) = load(&[(
        "config.toml",
        r#"
        version = 2
        colour = "red"
        [grpc]
        tcp_address = "127.0.0.1:1"
        shape = 1
        [stream_processors.x]
        path = "ctd-decoder"
        [plugins."io.containerd.grpc.v1.cri"]
        sandbox_image = "pause"
        [plugins."io.containerd.gc.v1.scheduler"]
        mutation_threshold = 1
        "#,
    )])
    .unwrap();
    let warnings: Vec<_> =
        warnings.iter().map(|text| text.split_once("config.toml: ").unwrap().1).collect();
    assert_eq!(
        warnings,
        [
            "grpc.tcp_address has no effect: there is no TCP listener",
            "ignoring unknown key grpc.shape",
            "ignoring unknown key plugins.\"io.containerd.grpc.v1.cri\"",
            "ignoring unknown key colour",
        ]
    );
}

#[test]
fn when_garbage_is_collected() {
    let gc = |text: &str| {
        let text = format!("version = 2\n[plugins.\"io.containerd.gc.v1.scheduler\"]\n{text}");
        load(&[("config.toml", &text)]).map(|(config, _)| config.gc)
    };
    let default = SchedulerConfig::default();
    assert_eq!(gc("").unwrap(), default);
    let half = SchedulerConfig { pause_threshold: 0.5, ..default };
    assert_eq!(gc("pause_threshold = 3.5").unwrap(), half);
    assert_eq!(gc("pause_threshold = 1").unwrap(), half);
    let never = SchedulerConfig { mutation_threshold: 0, ..default };
    assert_eq!(gc("mutation_threshold = -5").unwrap(), never);
    let later = SchedulerConfig { schedule_delay: Duration::from_millis(20), ..default };
    assert_eq!(gc("schedule_delay = '20ms'").unwrap(), later);
    for bad in ["pause_threshold = 'x'", "deletion_threshold = 1.5", "startup_delay = 7"] {
        assert_eq!(gc(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
    }
}

#[test]
fn imports_are_joined_as_containerd_does() {
    let (config, _) = load(&[
        (
            "config.toml",
            r#"
            version = 2
            root = "/r1"
            oom_score = 5
            imports = ["conf.d/*.toml", "config.toml"]
            disabled_plugins = ["io.containerd.grpc.v1.cri"]
            [grpc]
            gid = 1
            uid = 2
            "#,
        ),
        (
            "conf.d/a.toml",
            r#"
            version = 2
            root = "/r2"
            oom_score = 0
            imports = ["../more.toml"]
            disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.x.v1.y"]
            [grpc]
            gid = 3
            "#,
        ),
        ("more.toml", "version = 3\nstate = '/s3'\nimports = ['./conf.d/../config.toml']"),
    ])
    .unwrap();
    assert_eq!(config.root, Path::new("/r2"));
    assert_eq!(config.state, Path::new("/s3"));
    assert_eq!(config.oom_score, 5);
    assert_eq!((config.grpc.socket.uid, config.grpc.socket.gid), (2, 3));
    let disabled: Vec<_> = config.disabled_plugins.iter().map(PluginName::as_str).collect();
    assert_eq!(disabled, ["io.containerd.grpc.v1.cri", "io.containerd.x.v1.y"]);
}

#[test]
fn an_import_that_is_not_there_is_an_error() {
    let error = load(&[("config.toml", "version = 2\nimports = ['more.toml']")]).unwrap_err();
    assert!(error.report().to_string().contains("more.toml"));
}

#[test]
fn a_file_without_a_version_is_of_version_one() {
    let (config, warnings) =
        load(&[("config.toml", "disabled_plugins = ['cri']\n[plugins.restart]\ninterval = '3s'")])
            .unwrap();
    assert!(config.is_disabled("io.containerd.grpc.v1.cri"));
    assert_eq!(config.restart_interval, Duration::from_secs(3));
    assert_eq!(warnings.len(), 1);
}

#[test]
fn version_four_has_its_sockets_among_the_plugins() {
    let (config, _) = load(&[(
        "config.toml",
        "version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/a'\nuid = 5",
    )])
    .unwrap();
    let socket = &config.grpc.socket;
    assert_eq!((socket.address.as_path(), socket.uid), (Path::new("/a"), 5));
    assert_eq!(config.ttrpc.address, Path::new("/a.ttrpc"));
}

#[test]
fn flags_go_before_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, "version = 2\nroot = '/r'\n[grpc]\naddress = '/a'\n[debug]\nlevel = 'warn'")
        .unwrap();
    let flags = Overrides {
        root: Some("/r2".into()),
        address: Some("/b".into()),
        log_level: Some(LevelFilter::TRACE),
        id: Some("box".into()),
        concurrency: Some(7),
        metrics_interval: Some(Duration::from_secs(9)),
        ..Overrides::default()
    };
    let (config, _) = Config::load(Some(&path), flags).unwrap();
    assert_eq!(config.root, Path::new("/r2"));
    assert_eq!(config.ttrpc.address, Path::new("/b.ttrpc"));
    assert_eq!(config.log.level, LevelFilter::TRACE);
    assert_eq!((config.legacy.id.as_str(), config.concurrency), ("box", 7));
    assert_eq!(config.metrics.interval, Duration::from_secs(9));
}

#[test]
fn apis_of_2015() {
    let text = "version = 3\n[metrics]\naddress = '127.0.0.1:1338'\ninterval = '1m'\n\
         [plugins.'io.containerd.shim.v1.manager']\nmax_concurrent_starts = 3\n\
         [plugins.'io.containerd.legacy.v1.containers']\nnamespace = 'old'\noom_notify = false\n\
         [plugins.'io.containerd.legacy.v1.rest']\naddress = 'localhost:8888'";
    let (config, warnings) = load(&[("config.toml", text)]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.metrics.address, "127.0.0.1:1338");
    assert_eq!((config.metrics.interval, config.concurrency), (Duration::from_secs(60), 3));
    assert_eq!((config.legacy.namespace.as_str(), config.legacy.oom_notify), ("old", false));
    assert_eq!(config.rest.address, "localhost:8888");
    for (wrong, named) in [
        ("[plugins.'io.containerd.legacy.v1.containers']\nnamespace = 'a/b'", "a/b"),
        ("[plugins.'io.containerd.legacy.v1.rest']\naddress = '0.0.0.0:8888'", "allow_remote"),
        ("[plugins.'io.containerd.shim.v1.manager']\nmax_concurrent_starts = -1", "-1"),
    ] {
        let error = failure(&format!("version = 3\n{wrong}"));
        assert!(error.contains(named), "{error}");
    }
}
