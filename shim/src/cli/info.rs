//! `-info`: describes the shim and its OCI runtime.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use protobuf::{Message, MessageField, well_known_types::any::Any};
use shim_protocol::{
    Context, Error, ErrorKind, Result,
    proto::types::{RuntimeInfo, RuntimeVersion},
    rpc::BY_DESCRIPTOR,
};

use super::NAME;
use crate::{
    options::RuntimeOptions,
    reaper::Reaper,
    runtime::{
        Runtime,
        binary::{BinaryRuntime, Config},
        embedded::{EmbeddedRuntime, Helpers},
    },
};

/// Type URL of an OCI runtime's features as JSON.
const FEATURES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads runtime options as an `Any` from standard input, prints a
/// `RuntimeInfo` on standard output.
///
/// # Errors
/// `InvalidArgument` for options that are none of ours.
pub fn run() -> Result<()> {
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input).context("read", "standard input")?;
    let options = Any::parse_from_bytes(&input)
        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "decode options", e))?;
    let parsed = RuntimeOptions::from_any(Some(&options))?;
    let features = super::serve::block_on(async { features(&parsed).await })?;
    let info = RuntimeInfo {
        name: NAME.into(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }),
        options: MessageField(Some(options).filter(|any| !any.type_url.is_empty()).map(Box::new)),
        features: MessageField(features.map(Box::new)),
        annotations: [(BY_DESCRIPTOR.to_owned(), "true".to_owned())].into(),
        ..Default::default()
    };
    let bytes = info
        .write_to_bytes()
        .map_err(|e| Error::caused(ErrorKind::Internal, "encode RuntimeInfo", e))?;
    io::stdout().write_all(&bytes).context("print", "RuntimeInfo")
}

/// What the OCI runtime can do, if it tells.
async fn features(options: &RuntimeOptions) -> Result<Option<Any>> {
    let reaper = Reaper::start()?;
    let config = Config {
        binary: options.binary().into(),
        root: options.root_folder().into(),
        work: std::env::temp_dir(),
        systemd_cgroup: options.systemd_cgroup,
    };
    let runtime: Box<dyn Runtime> = match options.is_embedded() {
        true => {
            let helpers = Arc::new(Helpers::new(reaper, None));
            Box::new(EmbeddedRuntime::new(config.root, &config.work, helpers))
        }
        false => Box::new(BinaryRuntime::new(config, reaper)),
    };
    match runtime.features().await {
        Ok(value) => Ok(Some(Any { type_url: FEATURES_URL.into(), value, ..Default::default() })),
        // The shim works with runtimes that do not know the question.
        Err(e) if matches!(e.kind(), ErrorKind::Unimplemented | ErrorKind::Unknown) => Ok(None),
        Err(e) => Err(e),
    }
}
