//! The files of a bundle that the shim itself reads and writes. The names are
//! those of Go's runc shim, so that either can clean up after the other.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use shim_protocol::{Context, Error, ErrorKind, Id, Result, note};

use crate::options::RuntimeOptions;

/// The OCI runtime configuration.
const CONFIG: &str = "config.json";
/// Where the shim listens; daemons of generation 1.6 find it by this.
const ADDRESS: &str = "address";
/// The runtime options of the task.
const OPTIONS: &str = "options.json";
/// The OCI runtime's name, for readers older than `options.json`.
const RUNTIME: &str = "runtime";
/// The pid of init, written by the OCI runtime.
const INIT_PID: &str = "init.pid";
/// The container's root filesystem.
const ROOTFS: &str = "rootfs";
/// A FIFO that the daemon reads the shim's log from.
const LOG: &str = "log";
/// Annotations that put containers into one shim, the first one first
/// (containerd, `cmd/containerd-shim-runc-v2/manager`).
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The folder of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(PathBuf);

/// What the shim needs of `config.json`.
#[derive(Debug, Default, Deserialize)]
pub struct Spec {
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
}

#[derive(Debug, Default, Deserialize)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Spec {
    /// The group that the container belongs to, if any.
    ///
    /// # Errors
    /// `InvalidArgument` when the group's name is no identifier.
    pub fn group(&self) -> Result<Option<Id>> {
        let annotations = self.annotations.as_ref();
        GROUPS
            .iter()
            .find_map(|name| annotations.and_then(|annotations| annotations.get(*name)))
            .map(|group| Id::new("group", group))
            .transpose()
    }

    /// Has the container a pid namespace of its own? Then the kernel ends all
    /// of its processes with init.
    pub fn has_own_pid_namespace(&self) -> bool {
        let namespaces = self.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
        namespaces.into_iter().flatten().any(|ns| ns.kind == "pid" && ns.path.is_empty())
    }
}

impl Bundle {
    /// A bundle at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the root filesystem is, or is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.0.join(ROOTFS)
    }

    /// The FIFO for the shim's log.
    pub fn log(&self) -> PathBuf {
        self.0.join(LOG)
    }

    /// Folder for CRIU's work files, where the options name none.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// `InvalidArgument` when it is not there or no OCI configuration.
    pub fn spec(&self) -> Result<Spec> {
        let path = self.0.join(CONFIG);
        let text =
            fs::read(&path).context_as(ErrorKind::InvalidArgument, "read", path.display())?;
        serde_json::from_slice(&text).map_err(|e| {
            Error::caused(ErrorKind::InvalidArgument, format!("decode {}", path.display()), e)
        })
    }

    /// Says where the shim listens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_address(&self, address: &str) -> Result<()> {
        self.write(ADDRESS, address.as_bytes())
    }

    /// Where the shim listens; `None` when it never said.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn address(&self) -> Result<Option<String>> {
        let address = self.read(ADDRESS)?;
        Ok(address.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Keeps the task's options.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_options(&self, options: &RuntimeOptions) -> Result<()> {
        let json = serde_json::to_vec(options)
            .map_err(|e| Error::caused(ErrorKind::Internal, "encode options", e))?;
        self.write(OPTIONS, &json)?;
        self.write(RUNTIME, options.binary_name.as_bytes())
    }

    /// The task's options; defaults when there are none.
    ///
    /// # Errors
    /// `DataLoss` when the file holds something else.
    pub fn options(&self) -> Result<RuntimeOptions> {
        match self.read(OPTIONS)? {
            Some(json) => RuntimeOptions::try_from(json.as_slice()).context("read", OPTIONS),
            None => self.older_options(),
        }
    }

    /// The little of the task's options that older shims kept: the OCI
    /// runtime's name.
    ///
    /// # Errors
    /// `DataLoss` when what should be a file is none.
    pub fn older_options(&self) -> Result<RuntimeOptions> {
        let binary = self.read(RUNTIME)?.unwrap_or_default();
        let binary_name = String::from_utf8_lossy(&binary).into_owned();
        Ok(RuntimeOptions { binary_name, ..Default::default() })
    }

    /// The pid that init had; `None` when the OCI runtime wrote none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn init_pid(&self) -> Result<Option<u32>> {
        let text = self.read(INIT_PID)?;
        Ok(text.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok()))
    }

    /// Where the OCI runtime writes the pid of an exec.
    pub fn exec_pid_file(&self, exec: &Id) -> PathBuf {
        let name = format!("{exec}.pid");
        // An exec of that name must not hide init from whoever cleans up.
        let name = if name == INIT_PID { format!("exec.{name}") } else { name };
        self.0.join(name)
    }

    /// Forgets the pid of an exec; if there is none, that is fine.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_exec_pid(&self, exec: &Id) -> Result<()> {
        note::remove(&self.exec_pid_file(exec))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        note::write(&self.0.join(name), content)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        note::read(&self.0.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn groups_by_annotation() {
        assert_eq!(spec("{}").group().unwrap(), None);
        let both = spec(
            r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s","io.containerd.runc.v2.group":"g"}}"#,
        );
        assert_eq!(both.group().unwrap().unwrap().as_str(), "g");
        let bad = spec(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"../s"}}"#);
        assert_eq!(bad.group().unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn pid_namespaces() {
        for (namespaces, own) in [
            ("null", false),
            ("[]", false),
            (r#"[{"type":"pid"}]"#, true),
            (r#"[{"type":"pid","path":"/proc/1/ns/pid"}]"#, false),
            (r#"[{"type":"mount"}]"#, false),
        ] {
            let json = format!(r#"{{"linux":{{"namespaces":{namespaces}}}}}"#);
            assert_eq!(spec(&json).has_own_pid_namespace(), own, "{namespaces}");
        }
    }

    #[test]
    fn a_broken_configuration_is_invalid_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(folder.path());
        for text in [None, Some("{")] {
            if let Some(text) = text {
                fs::write(folder.path().join(CONFIG), text).unwrap();
            }
            let error = bundle.spec().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().ends_with(CONFIG), "{error}");
        }
    }

    #[test]
    fn options_come_back_in_old_and_new_form() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(folder.path());
        assert_eq!(bundle.options().unwrap(), RuntimeOptions::default());
        fs::write(folder.path().join(RUNTIME), "crun").unwrap();
        assert_eq!(bundle.options().unwrap().binary(), "crun");
        let options = RuntimeOptions { root: "/r".into(), ..Default::default() };
        bundle.write_options(&options).unwrap();
        assert_eq!(bundle.options().unwrap(), options);
        assert_eq!(bundle.init_pid().unwrap(), None);
        fs::write(folder.path().join(INIT_PID), "12\n").unwrap();
        assert_eq!(bundle.init_pid().unwrap(), Some(12));
    }

    #[test]
    fn an_exec_does_not_hide_init() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(folder.path());
        for (exec, name) in [("e1", "e1.pid"), ("init", "exec.init.pid")] {
            let exec = Id::new("exec id", exec).unwrap();
            assert_eq!(bundle.exec_pid_file(&exec), folder.path().join(name));
            fs::write(bundle.exec_pid_file(&exec), "1").unwrap();
            bundle.remove_exec_pid(&exec).unwrap();
            bundle.remove_exec_pid(&exec).unwrap();
            assert!(!bundle.exec_pid_file(&exec).exists());
        }
    }
}
