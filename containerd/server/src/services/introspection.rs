//! `containerd.services.introspection.v1.Introspection`.

use std::{borrow::Cow, sync::Arc};

use containerd_api::{
    from_any, google,
    services::introspection::v1 as api,
    to_any,
    types::{Platform, RuntimeInfo, RuntimeRequest, RuntimeVersion},
};
use containerd_core::filter::{Adaptor, Filter};
use runtime_v2::Manager;
use shim_protocol::{Error, ErrorKind, Result};
use tonic::{Request, Response, Status};

use super::convert::{any_in, any_out};
use crate::{identity::Identity, plugins, snapshotters::Opened, status};

pub(super) struct Service {
    pub(super) identity: Identity,
    pub(super) plugins: Vec<api::Plugin>,
    pub(super) manager: Arc<Manager>,
}

/// The parts of the daemon that are on, as messages; of those that were `opened`,
/// what came of that.
pub(super) fn plugins(is_disabled: impl Fn(&str) -> bool, opened: &[Opened]) -> Vec<api::Plugin> {
    let mut all: Vec<_> = plugins::ALL
        .iter()
        .filter(|plugin| !is_disabled(&plugin.name()))
        .map(|plugin| api::Plugin {
            r#type: plugin.kind.to_owned(),
            id: plugin.id.to_owned(),
            requires: plugin.requires.iter().map(|kind| (*kind).to_owned()).collect(),
            platforms: if plugin.platform { vec![host()] } else { Vec::new() },
            ..Default::default()
        })
        .collect();
    for opened in opened {
        let is_same =
            |plugin: &&mut api::Plugin| plugin.r#type == opened.kind && plugin.id == opened.name;
        match all.iter_mut().find(is_same) {
            Some(plugin) => add(plugin, opened),
            None => {
                let mut plugin = api::Plugin {
                    r#type: opened.kind.to_owned(),
                    id: opened.name.clone(),
                    ..Default::default()
                };
                add(&mut plugin, opened);
                all.push(plugin);
            }
        }
    }
    all
}

fn add(plugin: &mut api::Plugin, opened: &Opened) {
    plugin.capabilities = opened.capabilities.clone();
    plugin.exports = opened.exports.clone();
    plugin.init_err = opened.error.as_ref().map(|error| {
        let mut message = error.report().to_string();
        // By this word containerd's clients know that nothing is wrong.
        if error.kind() == ErrorKind::FailedPrecondition {
            message.push_str(": skip plugin");
        }
        let code = status::code(error.kind()).into();
        google::rpc::Status { code, message, details: Vec::new() }
    });
}

/// The platform of this machine in the words of OCI images, which are Go's.
fn host() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() }
}

/// Fields: `type` and `id` (containerd, `plugins/services/introspection`).
struct Fields<'a>(&'a api::Plugin);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path.first()?.as_str() {
            "type" => Some(Cow::Borrowed(&self.0.r#type)),
            "id" => Some(Cow::Borrowed(&self.0.id)),
            _ => None,
        }
    }
}

impl Service {
    fn list(&self, filters: &[String]) -> Result<Vec<api::Plugin>> {
        let filter = Filter::parse(filters)?;
        let all = self.plugins.iter();
        Ok(all.filter(|plugin| filter.matches(&Fields(plugin))).cloned().collect())
    }

    async fn info(&self, request: api::PluginInfoRequest) -> Result<api::PluginInfoResponse> {
        let api::PluginInfoRequest { r#type: kind, id, options } = request;
        let plugin = self
            .plugins
            .iter()
            .find(|plugin| plugin.r#type == kind && plugin.id == id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("plugin {kind}.{id}")))?;
        let extra = match options {
            None => None,
            Some(options) if plugin.r#type == plugins::RUNTIME => {
                Some(to_any(&self.runtime_info(&options).await?))
            }
            Some(_) => {
                return Err(Error::unimplemented(format!(
                    "plugin {kind}.{id} does not take options"
                )));
            }
        };
        Ok(api::PluginInfoResponse { plugin: Some(plugin), extra })
    }

    async fn runtime_info(&self, options: &prost_types::Any) -> Result<RuntimeInfo> {
        let request: RuntimeRequest = from_any(options).map_err(|e| {
            Error::caused(ErrorKind::InvalidArgument, "options of the runtime plugin", e)
        })?;
        let options = request.options.map(any_in);
        let info = self.manager.runtime_info(&request.runtime_path, options.as_ref()).await?;
        Ok(RuntimeInfo {
            name: info.name,
            version: Some(RuntimeVersion { version: info.version, revision: info.revision }),
            options: info.options.map(any_out),
            features: info.features.map(any_out),
            annotations: info.annotations,
        })
    }
}

#[tonic::async_trait]
impl api::introspection_server::Introspection for Service {
    async fn plugins(
        &self,
        request: Request<api::PluginsRequest>,
    ) -> Result<Response<api::PluginsResponse>, Status> {
        let plugins = self.list(&request.get_ref().filters).map_err(status::of)?;
        Ok(Response::new(api::PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<api::ServerResponse>, Status> {
        Ok(Response::new(api::ServerResponse {
            uuid: self.identity.uuid.clone(),
            pid: self.identity.pid.into(),
            pidns: self.identity.pid_namespace,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<api::PluginInfoRequest>,
    ) -> Result<Response<api::PluginInfoResponse>, Status> {
        self.info(request.into_inner()).await.map(Response::new).map_err(status::of)
    }
}
