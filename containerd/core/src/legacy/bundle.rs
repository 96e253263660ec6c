//! A bundle: a folder with `config.json` and the root.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::libc::O_NONBLOCK;
use serde_json::{Map, Value};
use shim_protocol::{Context, Error, ErrorKind, Result};

use super::{ProcessSpec, record};

/// The biggest configuration, in bytes. Real ones have some ten thousand.
const MAX_CONFIG: u64 = 4 << 20;

/// A bundle whose configuration can be handed to a shim.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    /// The OCI configuration, in which no path is relative to the bundle.
    pub(super) spec: Vec<u8>,
    pub(super) init: ProcessSpec,
}

/// Reads the bundle at `path`, an absolute path. A container that names no
/// cgroup gets `cgroup`.
///
/// # Errors
/// `NotFound` when there is no bundle; `InvalidArgument` when the path is not
/// absolute or the configuration makes no sense; those of the disk.
pub(super) fn load(path: &Path, cgroup: &str) -> Result<Bundle> {
    if !path.is_absolute() {
        return Err(Error::invalid(format!("bundle path {path:?} is not absolute")));
    }
    if !path.is_dir() {
        return Err(Error::not_found(format!("bundle {path:?}")));
    }
    let config = path.join("config.json");
    let bytes = match read(&config) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::not_found(format!("configuration {config:?}")));
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge) => {
            return Err(e).context_as(
                ErrorKind::InvalidArgument,
                "configuration",
                config.display(),
            );
        }
        read => read.context("read", config.display())?,
    };
    parse(path, &bytes, cgroup).context("configuration", config.display())
}

/// Nothing is waited for: what is no file may never have anything to say.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no file"));
    }
    if metadata.len() > MAX_CONFIG {
        let text = format!("has {} bytes, {MAX_CONFIG} are allowed", metadata.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bundle: &Path, bytes: &[u8], cgroup: &str) -> Result<Bundle> {
    let nonsense = |e| Error::caused(ErrorKind::InvalidArgument, "is no OCI configuration", e);
    let mut spec: Map<String, Value> = serde_json::from_slice(bytes).map_err(nonsense)?;
    if !spec.contains_key("ociVersion") {
        // That of 2015 had `version`, and half of it was in `runtime.json`.
        return Err(Error::invalid(
            "has no ociVersion: formats from before version 1.0 of the OCI runtime specification \
             are not read",
        ));
    }
    make_absolute(bundle, &mut spec)?;
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        let path = linux.entry("cgroupsPath").or_insert(Value::Null);
        if path.is_null() || path == "" {
            *path = cgroup.into();
        }
    }
    let spec = serde_json::to_vec(&spec)
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode the configuration", e))?;
    let init = record::init(&spec).ok_or_else(|| Error::invalid("has no process"))?;
    if init.args.is_empty() {
        return Err(Error::invalid("has a process without args"));
    }
    Ok(Bundle { path: bundle.to_owned(), spec, init })
}

/// The shim runs with a bundle of its own, so what is relative to this one has
/// to be named in full: the root, and what is bound into it.
fn make_absolute(bundle: &Path, spec: &mut Map<String, Value>) -> Result<()> {
    let root = spec.entry("root").or_insert_with(|| Value::Object(Map::new()));
    let root = root.as_object_mut().ok_or_else(|| Error::invalid("root is no object"))?;
    let path = match root.get("path") {
        None => "rootfs",
        Some(path) => path.as_str().ok_or_else(|| Error::invalid("root.path is no text"))?,
    };
    let path = bundle.join(path);
    if !path.is_dir() {
        return Err(Error::not_found(format!("root {path:?}")));
    }
    root.insert("path".into(), text(&path)?);
    let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten().filter_map(Value::as_object_mut) {
        let source = mount.get("source").and_then(Value::as_str).map(Path::new);
        if let Some(source) = source.filter(|source| is_bind(mount) && source.is_relative()) {
            let source = text(&bundle.join(source))?;
            mount.insert("source".into(), source);
        }
    }
    Ok(())
}

fn is_bind(mount: &Map<String, Value>) -> bool {
    let options = mount.get("options").and_then(Value::as_array);
    mount.get("type").and_then(Value::as_str) == Some("bind")
        || options.into_iter().flatten().any(|option| option == "bind" || option == "rbind")
}

fn text(path: &Path) -> Result<Value> {
    let text = path.to_str().ok_or_else(|| Error::invalid(format!("path {path:?} is no text")))?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use serde_json::json;

    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("rootfs")).unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        folder
    }

    fn kind(folder: &Path) -> ErrorKind {
        load(folder, "/n/a").unwrap_err().kind()
    }

    #[test]
    fn paths_become_absolute() {
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["a"], "user": {"uid": 7, "gid": 8}, "cwd": "/"},
            "mounts": [
                {"destination": "/a", "source": "a", "options": ["rbind", "ro"]},
                {"destination": "/b", "source": "/b", "type": "bind"},
                {"destination": "/proc", "source": "proc", "type": "proc"},
            ],
            "linux": {"namespaces": []},
            "annotations": {"kept": "yes"},
        });
        let folder = bundle(&config.to_string());
        let path = folder.path().to_str().unwrap();
        let loaded = load(folder.path(), "/n/a").unwrap();
        assert_eq!((loaded.init.user.uid, loaded.init.args.as_slice()), (7, &["a".to_owned()][..]));
        let spec: Value = serde_json::from_slice(&loaded.spec).unwrap();
        assert_eq!(spec["root"]["path"], format!("{path}/rootfs"));
        assert_eq!(spec["mounts"][0]["source"], format!("{path}/a"));
        assert_eq!(spec["mounts"][1]["source"], "/b");
        assert_eq!(spec["mounts"][2]["source"], "proc");
        assert_eq!(spec["annotations"]["kept"], "yes");
        assert_eq!(spec["linux"]["cgroupsPath"], "/n/a");
        let named = config.to_string().replace("\"namespaces\":[]", "\"cgroupsPath\":\"/own\"");
        let named = load(bundle(&named).path(), "/n/a").unwrap();
        assert!(String::from_utf8(named.spec).unwrap().contains("\"/own\""));
    }

    #[test]
    fn what_is_no_bundle_is_named() {
        assert_eq!(kind(Path::new("relative")), ErrorKind::InvalidArgument);
        assert_eq!(kind(Path::new("/nowhere/at/all")), ErrorKind::NotFound);
        for config in ["", "{", "[]", "{}", r#"{"version": "0.2.0"}"#, r#"{"ociVersion": "1.0.2"}"#]
        {
            assert_eq!(kind(bundle(config).path()), ErrorKind::InvalidArgument, "{config}");
        }
        let elsewhere = json!({
            "ociVersion": "1.0.2", "process": {"args": ["a"]}, "root": {"path": "nowhere"},
        });
        assert_eq!(kind(bundle(&elsewhere.to_string()).path()), ErrorKind::NotFound);
        let folder = bundle("{}");
        fs::remove_file(folder.path().join("config.json")).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_refused() {
        let folder = bundle("{}");
        let config = folder.path().join("config.json");
        fs::remove_file(&config).unwrap();
        mkfifo(&config, Mode::S_IRWXU).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::InvalidArgument);
        fs::remove_file(&config).unwrap();
        symlink("/dev/zero", &config).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::InvalidArgument);
        fs::remove_file(&config).unwrap();
        File::create(&config).unwrap().set_len(MAX_CONFIG + 1).unwrap();
        assert_eq!(kind(folder.path()), ErrorKind::InvalidArgument);
    }
}
