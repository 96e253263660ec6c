//! Runtime options: what a client may ask of the OCI runtime, per task.

use std::path::{Path, PathBuf};

use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};
use shim_protocol::{
    Error, Id, Result, any,
    proto::{runc_options, runtime_options},
};

/// The program that is the OCI runtime when the options name none, and the
/// embedded one cannot do what they ask for.
pub const DEFAULT_BINARY: &str = "runc";
/// The OCI runtime's state folder when the options name none; below it there
/// is one folder for each namespace.
pub const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// The options of a task. The JSON form is that of `options.json`, which Go's
/// shims keep in the bundle; fields that are not set are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeOptions {
    /// Do not use pivot_root.
    #[serde(skip_serializing_if = "is_default")]
    pub no_pivot_root: bool,
    /// Do not give the container a session keyring of its own.
    #[serde(skip_serializing_if = "is_default")]
    pub no_new_keyring: bool,
    /// Cgroup that the shim itself joins.
    #[serde(skip_serializing_if = "is_default")]
    pub shim_cgroup: String,
    /// User who owns the pipes of the container's processes.
    #[serde(skip_serializing_if = "is_default")]
    pub io_uid: u32,
    /// Group that owns the pipes.
    #[serde(skip_serializing_if = "is_default")]
    pub io_gid: u32,
    /// Name or path of the OCI runtime.
    #[serde(skip_serializing_if = "is_default")]
    pub binary_name: String,
    /// The OCI runtime's state folder.
    #[serde(skip_serializing_if = "is_default")]
    pub root: String,
    /// Let systemd make the cgroups.
    #[serde(skip_serializing_if = "is_default")]
    pub systemd_cgroup: bool,
    /// Folder for checkpoint images, where a request names none.
    #[serde(skip_serializing_if = "is_default")]
    pub criu_image_path: String,
    /// Folder for CRIU's work files and logs.
    #[serde(skip_serializing_if = "is_default")]
    pub criu_work_path: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RuntimeOptions {
    /// Reads options as a request carries them; none at all are the defaults.
    ///
    /// # Errors
    /// `InvalidArgument` for options of another runtime.
    pub fn from_any(options: Option<&Any>) -> Result<Self> {
        let Some(options) = options.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        // What the CRI plugin sends when its configuration has no options for
        // a runtime: a path for the runtime to read, which runc does not have.
        if any::is::<runtime_options::Options>(options) {
            return Ok(Self::default());
        }
        any::unpack::<runc_options::Options>(options).map(Self::from)
    }

    /// Is the container made by the runtime inside this program?
    pub fn is_embedded(&self) -> bool {
        self.binary_name.is_empty()
    }

    /// The OCI runtime to run, where it is a program.
    pub fn binary(&self) -> &str {
        if self.binary_name.is_empty() { DEFAULT_BINARY } else { &self.binary_name }
    }

    /// The OCI runtime's state folder for a namespace.
    pub fn root(&self, namespace: &Id) -> PathBuf {
        Path::new(self.root_folder()).join(namespace)
    }

    /// The OCI runtime's state folder for all namespaces.
    pub fn root_folder(&self) -> &str {
        if self.root.is_empty() { DEFAULT_ROOT } else { &self.root }
    }
}

impl From<runc_options::Options> for RuntimeOptions {
    fn from(options: runc_options::Options) -> Self {
        Self {
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            binary_name: options.binary_name,
            root: options.root,
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
        }
    }
}

impl TryFrom<&[u8]> for RuntimeOptions {
    type Error = Error;

    /// Reads `options.json`.
    fn try_from(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json)
            .map_err(|e| Error::caused(shim_protocol::ErrorKind::DataLoss, "decode options", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim_protocol::ErrorKind;

    #[test]
    fn no_options_are_the_defaults() {
        let namespace = Id::new("namespace", "ns").unwrap();
        for options in [None, Some(Any::default())] {
            let options = RuntimeOptions::from_any(options.as_ref()).unwrap();
            assert_eq!(options.binary(), "runc");
            assert_eq!(options.root(&namespace), Path::new("/run/containerd/runc/ns"));
        }
    }

    #[test]
    fn options_of_a_request() {
        let request = runc_options::Options {
            binary_name: "crun".into(),
            root: "/r".into(),
            io_uid: 7,
            ..Default::default()
        };
        let options = RuntimeOptions::from_any(Some(&any::pack(&request).unwrap())).unwrap();
        assert_eq!((options.binary(), options.io_uid), ("crun", 7));
        assert_eq!(options.root(&Id::new("namespace", "ns").unwrap()), Path::new("/r/ns"));
    }

    #[test]
    fn options_of_another_runtime_are_refused() {
        let other = Any { type_url: "io.kata.Options".into(), ..Default::default() };
        let error = RuntimeOptions::from_any(Some(&other)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn json_as_go_writes_it() {
        let json = br#"{"binary_name":"crun","systemd_cgroup":true,"task_api_version":3}"#;
        let options = RuntimeOptions::try_from(&json[..]).unwrap();
        assert!(options.systemd_cgroup);
        assert_eq!(
            serde_json::to_string(&options).unwrap(),
            r#"{"binary_name":"crun","systemd_cgroup":true}"#
        );
    }
}
