//! Who answers for system calls (OCI runtime specification, `config-linux.md`,
//! "The Container Process State").

use std::{
    collections::HashMap,
    os::{fd::AsFd, unix::net::UnixStream},
};

use oci_spec::runtime::LinuxSeccomp;
use serde::Serialize;
use shim_protocol::{Context, Error, ErrorKind, Id, Result};

use super::Record;
use crate::sys::fd;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: u32,
    metadata: &'a str,
    state: State<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    pid: u32,
    bundle: &'a std::path::Path,
    annotations: &'a HashMap<String, String>,
}

/// Takes the listener that a process sends and hands it to whom the profile
/// names. A process that sends none has failed, and says so elsewhere.
///
/// # Errors
/// `InvalidArgument` when there is nobody to take it.
pub(super) fn pass_on(
    from: &UnixStream,
    profile: &LinuxSeccomp,
    id: &Id,
    record: &Record,
) -> Result<()> {
    let Ok(listener) = fd::receive(from.as_fd()) else { return Ok(()) };
    let path = profile.listener_path().as_ref();
    let path = path
        .ok_or_else(|| Error::invalid("linux.seccomp.listenerPath: none, with SCMP_ACT_NOTIFY"))?;
    let state = ProcessState {
        oci_version: &record.oci_version,
        fds: ["seccompFd"],
        pid: record.pid,
        metadata: profile.listener_metadata().as_deref().unwrap_or_default(),
        state: State {
            oci_version: &record.oci_version,
            id,
            status: "creating",
            pid: record.pid,
            bundle: &record.bundle,
            annotations: &record.annotations,
        },
    };
    let json = serde_json::to_vec(&state)
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode the container's state", e))?;
    let what = || format!("linux.seccomp.listenerPath: {}", path.display());
    let to =
        UnixStream::connect(path).context_as(ErrorKind::InvalidArgument, "connect to", what())?;
    let sent = fd::send(to.as_fd(), &json, &[listener.as_fd()]);
    match sent.context("send to", what())? {
        sent if sent == json.len() => Ok(()),
        _ => Err(Error::internal(format!("send to {}: it takes only a part", what()))),
    }
}
