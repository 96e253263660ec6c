//! What a daemon writes to the standard input of `start`, and what it wants to
//! read from its standard output, by generation:
//!
//! | daemon     | writes                    | reads                         |
//! | ---------- | ------------------------- | ----------------------------- |
//! | 1.6        | options as `Any`, or none | an address                    |
//! | 1.7 to 2.2 | the same                  | JSON, `MAX_SHIM_VERSION` says |
//! | from 2.3   | `BootstrapParams`         | the same                      |
//!
//! (containerd, `runtime/v2/binary.go` at 1.6 and `core/runtime/v2/shim.go`,
//! `parseStartResponse`). From 1.7 on a bare address is understood too, but
//! means version 2 of the task API.

use protobuf::{Message, well_known_types::any::Any};
use serde::Serialize;
use shim_protocol::{
    Error, ErrorKind, Id, Result, any,
    proto::{
        bootstrap::{BootstrapParams, LogLevel},
        runc_options,
    },
};

use crate::options::RuntimeOptions;

/// The newest version of the task API that the shim serves.
const NEWEST: u32 = 3;
/// The only version that daemons without an answer of their own know.
const OLDEST: u32 = 2;

/// What the daemon said, whichever its generation.
#[derive(Debug, Default, PartialEq)]
pub struct Bootstrap {
    /// The runtime options of the task.
    pub options: RuntimeOptions,
    /// The daemon's ttrpc socket, if not in the environment.
    pub ttrpc_address: Option<String>,
    /// Folder for the shim's socket.
    pub socket_folder: Option<String>,
    /// Log debug messages too.
    pub debug: bool,
    /// The daemon sent `BootstrapParams`, so it is of generation 2.3 or later.
    is_message: bool,
}

/// What newer daemons read.
#[derive(Serialize)]
struct Answer<'a> {
    version: u32,
    address: &'a str,
    protocol: &'static str,
}

impl Bootstrap {
    /// Reads the standard input of `start`.
    ///
    /// # Errors
    /// `InvalidArgument` when it is neither empty nor any of the forms above,
    /// or has the options of another runtime.
    pub fn parse(input: &[u8], namespace: &Id, id: &Id) -> Result<Self> {
        if input.is_empty() {
            return Ok(Self::default());
        }
        // An `Any` may happen to be valid `BootstrapParams`, but not with the
        // names that are on the command line.
        if let Ok(params) = BootstrapParams::parse_from_bytes(input)
            && params.namespace == **namespace
            && params.instance_id == **id
        {
            return Self::from_params(params);
        }
        let options = Any::parse_from_bytes(input).map_err(|e| {
            Error::caused(ErrorKind::InvalidArgument, "decode options on standard input", e)
        })?;
        Ok(Self { options: RuntimeOptions::from_any(Some(&options))?, ..Default::default() })
    }

    fn from_params(params: BootstrapParams) -> Result<Self> {
        let options = params
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
            .find(|value| any::is::<runc_options::Options>(value));
        Ok(Self {
            options: RuntimeOptions::from_any(options)?,
            ttrpc_address: Some(params.containerd_ttrpc_address).filter(|a| !a.is_empty()),
            socket_folder: params.socket_dir.filter(|folder| !folder.is_empty()),
            debug: params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
            is_message: true,
        })
    }

    /// What to print, given `MAX_SHIM_VERSION` from the environment.
    ///
    /// # Errors
    /// `Internal` when the answer cannot be encoded.
    pub fn answer(&self, address: &str, max_version: Option<&str>) -> Result<String> {
        let max = max_version.and_then(|version| version.parse().ok());
        let version = match (self.is_message, max) {
            (true, _) => NEWEST,
            (false, Some(max)) if max >= OLDEST => NEWEST.min(max),
            (false, _) => return Ok(address.to_owned()),
        };
        serde_json::to_string(&Answer { version, address, protocol: "ttrpc" })
            .map_err(|e| Error::caused(ErrorKind::Internal, "encode bootstrap answer", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::{EnumOrUnknown, MessageField};
    use shim_protocol::proto::{bootstrap::Extension, runtime_options};

    fn parse(input: &[u8]) -> Result<Bootstrap> {
        Bootstrap::parse(input, &Id::new("ns", "ns").unwrap(), &Id::new("id", "id").unwrap())
    }

    fn options() -> Any {
        any::pack(&runc_options::Options { binary_name: "crun".into(), ..Default::default() })
            .unwrap()
    }

    #[test]
    fn nothing_is_the_defaults_and_a_bare_address() {
        let bootstrap = parse(b"").unwrap();
        assert_eq!(bootstrap, Bootstrap::default());
        assert_eq!(bootstrap.answer("unix:///s", None).unwrap(), "unix:///s");
    }

    #[test]
    fn options_alone() {
        let bootstrap = parse(&options().write_to_bytes().unwrap()).unwrap();
        assert_eq!(bootstrap.options.binary(), "crun");
        assert_eq!(bootstrap.answer("unix:///s", None).unwrap(), "unix:///s");
        assert_eq!(
            bootstrap.answer("unix:///s", Some("2")).unwrap(),
            r#"{"version":2,"address":"unix:///s","protocol":"ttrpc"}"#
        );
    }

    #[test]
    fn a_whole_message() {
        let other = any::pack(&runtime_options::Options::default()).unwrap();
        let extension =
            |value| Extension { value: MessageField::some(value), ..Default::default() };
        let params = BootstrapParams {
            instance_id: "id".into(),
            namespace: "ns".into(),
            log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_DEBUG),
            containerd_ttrpc_address: "/c.sock.ttrpc".into(),
            socket_dir: Some("/sockets".into()),
            extensions: vec![extension(other), extension(options())],
            ..Default::default()
        };
        let bootstrap = parse(&params.write_to_bytes().unwrap()).unwrap();
        assert_eq!(bootstrap.options.binary(), "crun");
        assert_eq!(bootstrap.ttrpc_address.as_deref(), Some("/c.sock.ttrpc"));
        assert_eq!(bootstrap.socket_folder.as_deref(), Some("/sockets"));
        assert!(bootstrap.debug);
        assert_eq!(
            bootstrap.answer("unix:///s", Some("2")).unwrap(),
            r#"{"version":3,"address":"unix:///s","protocol":"ttrpc"}"#
        );
    }

    #[test]
    fn garbage_is_invalid() {
        for input in [&b"\xff\xff\xff"[..], b"hello, shim"] {
            assert_eq!(parse(input).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }
}
