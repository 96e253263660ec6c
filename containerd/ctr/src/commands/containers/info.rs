//! `ctr containers info`

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use clap::Args;
use containerd_client::{Any, ContainerRecord};
use serde::Serialize;
use serde_json::Value;

use crate::{cli::Global, json, session, time};

/// Print what is known of a container, as JSON.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print its OCI configuration only
    #[arg(long)]
    spec: bool,
    /// Id of the container
    container: String,
}

impl Info {
    pub(crate) async fn run(self, global: &Global) -> Result<()> {
        let container = session::namespace(global).await?.container(&self.container).await?;
        let record = container.record();
        let spec = record.spec.as_ref().map(read).transpose()?;
        if self.spec {
            return json::print(&spec);
        }
        json::print(&Document::new(record, spec))
    }
}

/// The record under the names that Go's `ctr` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    labels: &'a BTreeMap<String, String>,
    image: &'a str,
    runtime: Runtime<'a>,
    snapshot_key: &'a str,
    snapshotter: &'a str,
    created_at: String,
    updated_at: String,
    extensions: BTreeMap<&'a str, Value>,
    #[serde(rename = "SandboxID")]
    sandbox_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Runtime<'a> {
    name: &'a str,
    options: Option<Value>,
}

impl<'a> Document<'a> {
    fn new(record: &'a ContainerRecord, spec: Option<Value>) -> Self {
        let extensions = record.extensions.iter();
        Self {
            id: &record.id,
            labels: &record.labels,
            image: &record.image,
            runtime: Runtime {
                name: &record.runtime.name,
                options: record.runtime.options.as_ref().map(json::any),
            },
            snapshot_key: &record.snapshot_key,
            snapshotter: &record.snapshotter,
            created_at: time::rfc3339(record.created_at),
            updated_at: time::rfc3339(record.updated_at),
            extensions: extensions.map(|(name, any)| (name.as_str(), json::any(any))).collect(),
            sandbox_id: &record.sandbox,
            spec,
        }
    }
}

fn read(spec: &Any) -> Result<Value> {
    serde_json::from_slice(&spec.value).context("read the OCI configuration")
}
