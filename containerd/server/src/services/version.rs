//! `containerd.services.version.v1.Version`.

use containerd_api::services::version::v1 as api;
use tonic::{Request, Response, Status};

use crate::cli::{REVISION, VERSION};

pub(super) struct Service;

#[tonic::async_trait]
impl api::version_server::Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<api::VersionResponse>, Status> {
        Ok(Response::new(api::VersionResponse {
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
        }))
    }
}
