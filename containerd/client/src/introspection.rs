//! What the daemon says of itself: version, plugins, health.

use std::{collections::BTreeMap, time::SystemTime};

use containerd_api::{
    from_any,
    grpc::health::v1::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    services::{
        introspection::v1::{
            Plugin as WirePlugin, PluginInfoRequest, PluginsRequest,
            introspection_client::IntrospectionClient,
        },
        version::v1::version_client::VersionClient,
    },
    to_any,
    types::{RuntimeInfo, RuntimeRequest},
};
use containerd_images::Platform;
use prost_types::Any;
use tonic::{Code, transport::Channel};

use crate::{Client, Context, Error, ErrorKind, Result, time};

/// Version of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Such as `v2.1.0`.
    pub version: String,
    /// Commit it was built from.
    pub revision: String,
}

/// Which daemon it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Identifier that stays the same as long as the daemon's root folder.
    pub uuid: String,
    /// Its process id; 0 from daemons that do not tell.
    pub pid: u64,
    /// Inode number of its pid namespace; 0 from daemons that do not tell.
    pub pidns: u64,
    /// What it was asked for and will not support much longer.
    pub deprecations: Vec<Deprecation>,
}

/// A use of something deprecated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// Stable identifier of the feature.
    pub id: String,
    /// What to do about it.
    pub message: String,
    /// When it was used last.
    pub last_occurrence: Option<SystemTime>,
}

/// A part of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// Such as `io.containerd.grpc.v1`.
    pub kind: String,
    /// Such as `tasks`.
    pub id: String,
    /// Kinds of plugins that it needs.
    pub requires: Vec<String>,
    /// Platforms that it supports; none means that it does not matter.
    pub platforms: Vec<Platform>,
    /// What it tells others, such as its root folder.
    pub exports: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Why it is not there: gRPC code and message.
    pub init_error: Option<(i32, String)>,
}

/// A plugin and what it says of itself on request.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginInfo {
    /// The plugin.
    pub plugin: Option<Plugin>,
    /// Its answer; the type depends on the plugin.
    pub extra: Option<Any>,
}

/// Is the daemon fit to serve?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It does not serve now.
    NotServing,
    /// It does not say.
    Unknown,
}

impl From<WirePlugin> for Plugin {
    fn from(wire: WirePlugin) -> Self {
        let platforms = wire.platforms.into_iter().map(|p| Platform {
            os: p.os,
            architecture: p.architecture,
            variant: p.variant,
            os_version: p.os_version,
            os_features: p.os_features,
        });
        Self {
            kind: wire.r#type,
            id: wire.id,
            requires: wire.requires,
            platforms: platforms.collect(),
            exports: wire.exports,
            capabilities: wire.capabilities,
            init_error: wire.init_err.map(|status| (status.code, status.message)),
        }
    }
}

impl Client {
    fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel())
    }

    /// The daemon's version.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn version(&self) -> Result<Version> {
        let response =
            VersionClient::new(self.channel()).version(()).await.context("get version", "")?;
        let response = response.into_inner();
        Ok(Version { version: response.version, revision: response.revision })
    }

    /// Which daemon it is.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn server(&self) -> Result<ServerInfo> {
        let response = self.introspection().server(()).await.context("get server", "")?;
        let response = response.into_inner();
        let deprecations = response.deprecations.into_iter().map(|d| Deprecation {
            id: d.id,
            message: d.message,
            last_occurrence: time::from_wire(d.last_occurrence),
        });
        Ok(ServerInfo {
            uuid: response.uuid,
            pid: response.pid,
            pidns: response.pidns,
            deprecations: deprecations.collect(),
        })
    }

    /// The plugins that one of `filters` matches; all if there is none.
    ///
    /// # Errors
    /// `InvalidArgument` when a filter cannot be parsed.
    pub async fn plugins(&self, filters: &[String]) -> Result<Vec<Plugin>> {
        let request = PluginsRequest { filters: filters.to_vec() };
        let response = self.introspection().plugins(request).await.context("list plugins", "")?;
        Ok(response.into_inner().plugins.into_iter().map(Into::into).collect())
    }

    /// What one plugin says of itself. Daemons before 2.0 cannot tell.
    ///
    /// # Errors
    /// `NotFound` when there is no such plugin, `Unimplemented` when it has
    /// nothing to say or the daemon is too old.
    pub async fn plugin_info(
        &self,
        kind: &str,
        id: &str,
        options: Option<Any>,
    ) -> Result<PluginInfo> {
        let request = PluginInfoRequest { r#type: kind.into(), id: id.into(), options };
        let response =
            self.introspection().plugin_info(request).await.context("inspect plugin", id)?;
        let response = response.into_inner();
        Ok(PluginInfo { plugin: response.plugin.map(Into::into), extra: response.extra })
    }

    /// What a runtime says of itself: name, version, features. `path` is the
    /// runtime's name or the path of its shim.
    ///
    /// # Errors
    /// As [`Client::plugin_info`], and those of the shim.
    pub async fn runtime_info(&self, path: &str, options: Option<Any>) -> Result<RuntimeInfo> {
        let request = RuntimeRequest { runtime_path: path.into(), options };
        let info =
            self.plugin_info("io.containerd.runtime.v2", "task", Some(to_any(&request))).await?;
        let extra = info
            .extra
            .ok_or_else(|| Error::incomplete("inspect runtime", "information on the runtime"))?;
        from_any(&extra)
            .map_err(|e| Error::caused(ErrorKind::DataLoss, format!("inspect runtime {path}"), e))
    }

    /// Is the daemon fit to serve? `service` is the full name of a gRPC
    /// service, or empty for the daemon as a whole.
    ///
    /// # Errors
    /// `NotFound` when the service is unknown.
    pub async fn health(&self, service: &str) -> Result<Health> {
        let request = HealthCheckRequest { service: service.into() };
        let response = HealthClient::new(self.channel()).check(request).await;
        let status = match response {
            Ok(response) => response.into_inner().status(),
            // An answer is an answer: the daemon lives, but has no such service.
            Err(status) if status.code() == Code::Unimplemented => ServingStatus::Unknown,
            Err(status) => Err(status).context("check health", service)?,
        };
        Ok(match status {
            ServingStatus::Serving => Health::Serving,
            ServingStatus::NotServing => Health::NotServing,
            ServingStatus::Unknown | ServingStatus::ServiceUnknown => Health::Unknown,
        })
    }
}
