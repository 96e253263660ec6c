//! What a container's record says of it beyond what every container has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use runtime_v2::Any;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use shim_protocol::{Error, ErrorKind, Id, Result};

use super::ProcessSpec;
use crate::{containers, events::Ending};

/// Extension with the bundle; only our containers have it.
const BUNDLE: &str = "io.containerd.legacy.v1";
/// Extension with an exit that nobody was there to see.
const EXIT: &str = "io.containerd.legacy.v1.exit";
/// Extension with an added process; the exec's id follows.
const PROCESS: &str = "io.containerd.legacy.v1.process.";
/// Extension that says that the container is to be ended; with a dot and the
/// exec's id after it, an added process.
const UNWANTED: &str = "io.containerd.legacy.v1.unwanted";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    bundle_path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exit {
    pid: u32,
    status: u32,
    /// Nanoseconds since 1970.
    at: u64,
}

/// What is known of a container from its record.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: Id,
    /// None: it was made through another API.
    pub(super) bundle: Option<PathBuf>,
    pub(super) exit: Option<Ending>,
    /// Its first process.
    pub(super) init: ProcessSpec,
    /// Those that were added, by exec.
    pub(super) processes: BTreeMap<Id, ProcessSpec>,
    /// Those of which a client was told that they could not be started; `None`
    /// is the first.
    unwanted: BTreeSet<Option<Id>>,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// `DataLoss` when what we put there is not there any more as we put it.
    pub(super) fn read(container: &containers::Container) -> Result<Self> {
        let (mut processes, mut unwanted) = (BTreeMap::new(), BTreeSet::new());
        for (name, value) in &container.extensions {
            if let Some(exec) = name.strip_prefix(PROCESS) {
                processes.insert(Id::new("exec id", exec)?, decode(name, value)?);
            } else if let Some(process) = name.strip_prefix(UNWANTED) {
                let exec = process.strip_prefix('.').map(|exec| Id::new("exec id", exec));
                unwanted.insert(exec.transpose()?);
            }
        }
        let read = |name| container.extensions.get(name);
        let bundle: Option<Bundle> = read(BUNDLE).map(|v| decode(BUNDLE, v)).transpose()?;
        let exit: Option<Exit> = read(EXIT).map(|v| decode(EXIT, v)).transpose()?;
        // What others made may have any spec, or one that is no JSON at all.
        let init = container.spec.as_ref().and_then(|spec| init(&spec.value)).unwrap_or_default();
        Ok(Self {
            id: container.id.clone(),
            bundle: bundle.map(|bundle| bundle.bundle_path),
            exit: exit.map(Ending::from),
            init,
            processes,
            unwanted,
        })
    }

    pub(super) fn is_ours(&self) -> bool {
        self.bundle.is_some()
    }

    /// A client was told that it could not be started, and it is to be ended.
    pub(super) fn is_unwanted(&self, exec: Option<&Id>) -> bool {
        self.unwanted.contains(&exec.cloned())
    }
}

/// The first process of an OCI configuration.
pub(super) fn init(spec: &[u8]) -> Option<ProcessSpec> {
    #[derive(Deserialize)]
    struct Spec {
        process: Option<ProcessSpec>,
    }
    serde_json::from_slice::<Spec>(spec).ok()?.process
}

/// A name and a value among the extensions of a record.
pub(super) type Extension = (String, Any);

pub(super) fn bundle(path: PathBuf) -> Result<Extension> {
    encode(BUNDLE.to_owned(), &Bundle { bundle_path: path })
}

pub(super) fn exit(ending: Ending) -> Result<Extension> {
    let since = ending.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    encode(EXIT.to_owned(), &Exit { pid: ending.pid, status: ending.status, at })
}

pub(super) fn process(exec: &Id, spec: &ProcessSpec) -> Result<Extension> {
    encode(process_name(exec), spec)
}

pub(super) fn unwanted(exec: Option<&Id>) -> Result<Extension> {
    encode(unwanted_name(exec), &())
}

/// Name of the extension of a process that is to be ended.
pub(super) fn unwanted_name(exec: Option<&Id>) -> String {
    exec.map_or_else(|| UNWANTED.to_owned(), |exec| format!("{UNWANTED}.{exec}"))
}

/// Name of the extension of an added process.
pub(super) fn process_name(exec: &Id) -> String {
    format!("{PROCESS}{exec}")
}

impl From<Exit> for Ending {
    fn from(exit: Exit) -> Self {
        let at: SystemTime = UNIX_EPOCH + Duration::from_nanos(exit.at);
        Self { pid: exit.pid, status: exit.status, at }
    }
}

fn encode(name: String, value: &impl Serialize) -> Result<Extension> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Error::caused(ErrorKind::Internal, format!("encode {name}"), e))?;
    let type_url = name.clone();
    Ok((name, Any { type_url, value: bytes }))
}

fn decode<T: DeserializeOwned>(name: &str, any: &Any) -> Result<T> {
    serde_json::from_slice(&any.value)
        .map_err(|e| Error::caused(ErrorKind::DataLoss, format!("extension {name:?}"), e))
}
