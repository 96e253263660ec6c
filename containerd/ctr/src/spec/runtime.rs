//! What runs a container: the shim, and what the shim is told.

use anyhow::{Context, Result, bail};
use clap::Args;
use containerd_api::{runc::v1::Options as RuncOptions, runtimeoptions, to_any};
use containerd_client::{Any, Container, DEFAULT_RUNTIME, Runtime};
use oci_spec::runtime::LinuxIdMapping;

/// What runs a container.
#[derive(Debug, Args)]
pub(crate) struct RuntimeArgs {
    /// Name of the runtime, or path of its shim
    #[arg(long, default_value = DEFAULT_RUNTIME, value_name = "NAME")]
    pub(crate) runtime: String,
    /// Configuration file of a runtime other than runc's
    #[arg(long, value_name = "FILE")]
    runtime_config_path: Option<String>,
    /// OCI runtime that runc's shim drives, such as crun
    #[arg(long, value_name = "PROGRAM")]
    runc_binary: Option<String>,
    /// Folder for the state of the OCI runtime
    #[arg(long, value_name = "DIR")]
    runc_root: Option<String>,
    /// Let systemd make the cgroup: needs --cgroup slice:prefix:name
    #[arg(long)]
    runc_systemd_cgroup: bool,
}

impl RuntimeArgs {
    /// The runtime with its options. `cgroup` is the container's.
    pub(crate) fn runtime(&self, cgroup: Option<&str>) -> Result<Runtime> {
        if self.runtime != DEFAULT_RUNTIME {
            if self.runc_binary.is_some() || self.runc_systemd_cgroup {
                bail!("--runc-binary and --runc-systemd-cgroup are for {DEFAULT_RUNTIME} alone");
            }
            let options = self.runtime_config_path.as_ref().map(|path| {
                let config_path = path.clone();
                to_any(&runtimeoptions::v1::Options { config_path, ..Default::default() })
            });
            return Ok(Runtime { name: self.runtime.clone(), options });
        }
        if self.runc_systemd_cgroup && cgroup.is_none_or(str::is_empty) {
            bail!("--runc-systemd-cgroup needs --cgroup, such as machine.slice:ctr:web");
        }
        Ok(Runtime::runc(&RuncOptions {
            binary_name: self.runc_binary.clone().unwrap_or_default(),
            root: self.runc_root.clone().unwrap_or_default(),
            systemd_cgroup: self.runc_systemd_cgroup,
            ..RuncOptions::default()
        }))
    }
}

/// Options of the runtime for one task, where they differ from the container's.
pub(crate) fn task_options(container: &Container, no_pivot: bool) -> Result<Option<Any>> {
    let spec = container.spec()?;
    let first = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.iter().flatten().next().map_or(0, LinuxIdMapping::host_id)
    };
    let linux = spec.linux().as_ref();
    // The pipes of a container belong to its root user, so that it can reopen
    // them.
    let io_uid = linux.map_or(0, |linux| first(linux.uid_mappings()));
    let io_gid = linux.map_or(0, |linux| first(linux.gid_mappings()));
    if !no_pivot && io_uid == 0 && io_gid == 0 {
        return Ok(None);
    }
    let options = match &container.record().runtime.options {
        Some(any) => containerd_api::from_any(any).context("options of the runtime")?,
        None => RuncOptions::default(),
    };
    Ok(Some(to_any(&RuncOptions { no_pivot_root: no_pivot, io_uid, io_gid, ..options })))
}
