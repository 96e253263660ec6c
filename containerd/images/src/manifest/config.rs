//! Configurations: how an image is run and which layers it has (OCI image
//! specification, "Image Configuration"; Docker's is the same in what counts
//! here).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use shim_protocol::Result;

use super::{json, read};
use crate::{Digest, Platform};

/// How an image is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What it is made for, as the image says it.
    pub platform: Platform,
    /// When it was made (RFC 3339); may be empty.
    pub created: String,
    /// Digests of the layers without their compression, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// How each layer came about, as far as known.
    pub history: Vec<History>,
    /// `user`, `uid`, `user:group`, `uid:gid`…; may be empty.
    pub user: String,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// What is run, before the arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, unless others are given; the whole command without an
    /// entrypoint.
    pub cmd: Vec<String>,
    /// Where it is run; may be empty.
    pub working_dir: String,
    /// Folders whose content does not belong to the container's layer.
    pub volumes: BTreeSet<String>,
    /// Ports it listens at, such as `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to end; may be empty.
    pub stop_signal: String,
}

/// How a layer came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When (RFC 3339); may be empty.
    pub created: String,
    /// By which command.
    pub created_by: String,
    /// Who did it.
    pub author: String,
    /// What they said.
    pub comment: String,
    /// There is no layer for this step.
    pub empty_layer: bool,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none; `ResourceExhausted` when it has more
    /// than [`super::DOCUMENT_MAX_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // Field by field: a document has room for both parts beside each other.
        let platform: Platform = read("configuration", bytes)?;
        let json: ConfigJson = read("configuration", bytes)?;
        let run = json.config.unwrap_or_default();
        let rootfs = json.rootfs.unwrap_or_default();
        Ok(Self {
            platform,
            created: json.created.unwrap_or_default(),
            diff_ids: rootfs.diff_ids.map(|DiffIds(ids)| ids).unwrap_or_default(),
            history: json.history.unwrap_or_default().into_iter().map(History::from).collect(),
            user: run.user.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: run.labels.unwrap_or_default(),
            stop_signal: run.stop_signal.unwrap_or_default(),
        })
    }
}

/// Everything may be missing or null: Go writes both.
#[derive(Deserialize)]
struct ConfigJson {
    created: Option<String>,
    config: Option<RunJson>,
    rootfs: Option<RootfsJson>,
    history: Option<Vec<HistoryJson>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunJson {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

#[derive(Default, Deserialize)]
struct RootfsJson {
    diff_ids: Option<DiffIds>,
}

struct DiffIds(Vec<Digest>);

impl<'de> Deserialize<'de> for DiffIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| json::digest(text)).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Deserialize)]
struct HistoryJson {
    created: Option<String>,
    created_by: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

impl From<HistoryJson> for History {
    fn from(json: HistoryJson) -> Self {
        Self {
            created: json.created.unwrap_or_default(),
            created_by: json.created_by.unwrap_or_default(),
            author: json.author.unwrap_or_default(),
            comment: json.comment.unwrap_or_default(),
            empty_layer: json.empty_layer.unwrap_or_default(),
        }
    }
}
