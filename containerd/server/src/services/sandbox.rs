//! `containerd.services.sandbox.v1.Store`. Nobody makes sandboxes here: there
//! is no `Controller`.

use std::time::SystemTime;

use containerd_api::{services::sandbox::v1 as api, types};
use containerd_core::{
    containers::Runtime,
    sandboxes::{Sandbox, Sandboxes},
};
use shim_protocol::{Id, Result};
use tonic::{Request, Response, Status};

use super::{
    convert::{any_in, any_out, required},
    headers,
};
use crate::status;

pub(super) struct Service(pub(super) Sandboxes);

fn encode(sandbox: Sandbox) -> types::Sandbox {
    let runtime = types::sandbox::Runtime {
        name: sandbox.runtime.name,
        options: sandbox.runtime.options.map(any_out),
    };
    types::Sandbox {
        sandbox_id: sandbox.id.to_string(),
        runtime: Some(runtime),
        spec: sandbox.spec.map(any_out),
        labels: sandbox.labels,
        created_at: Some(sandbox.created_at.into()),
        updated_at: Some(sandbox.updated_at.into()),
        extensions: sandbox.extensions.into_iter().map(|(k, v)| (k, any_out(v))).collect(),
        sandboxer: sandbox.sandboxer,
    }
}

fn decode(sandbox: Option<types::Sandbox>) -> Result<Sandbox> {
    let sandbox = required("sandbox", sandbox)?;
    let runtime = sandbox.runtime.unwrap_or_default();
    Ok(Sandbox {
        id: Id::new("sandbox id", &sandbox.sandbox_id)?,
        labels: sandbox.labels,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any_in) },
        spec: sandbox.spec.map(any_in),
        extensions: sandbox.extensions.into_iter().map(|(k, v)| (k, any_in(v))).collect(),
        sandboxer: sandbox.sandboxer,
        // The store sets both.
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
    })
}

#[tonic::async_trait]
impl api::store_server::Store for Service {
    async fn create(
        &self,
        request: Request<api::StoreCreateRequest>,
    ) -> Result<Response<api::StoreCreateResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let sandbox = decode(request.into_inner().sandbox).map_err(status::of)?;
        let created = self.0.create(&namespace, sandbox).await.map_err(status::of)?;
        Ok(Response::new(api::StoreCreateResponse { sandbox: Some(encode(created)) }))
    }

    async fn update(
        &self,
        request: Request<api::StoreUpdateRequest>,
    ) -> Result<Response<api::StoreUpdateResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let sandbox = decode(request.sandbox).map_err(status::of)?;
        let updated = self.0.update(&namespace, sandbox, &request.fields).await;
        let sandbox = Some(encode(updated.map_err(status::of)?));
        Ok(Response::new(api::StoreUpdateResponse { sandbox }))
    }

    async fn delete(
        &self,
        request: Request<api::StoreDeleteRequest>,
    ) -> Result<Response<api::StoreDeleteResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        self.0.delete(&namespace, &request.get_ref().sandbox_id).await.map_err(status::of)?;
        Ok(Response::new(api::StoreDeleteResponse {}))
    }

    async fn list(
        &self,
        request: Request<api::StoreListRequest>,
    ) -> Result<Response<api::StoreListResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let found = self.0.list(&namespace, &request.get_ref().filters).await;
        let list = found.map_err(status::of)?.into_iter().map(encode).collect();
        Ok(Response::new(api::StoreListResponse { list }))
    }

    async fn get(
        &self,
        request: Request<api::StoreGetRequest>,
    ) -> Result<Response<api::StoreGetResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let found = self.0.get(&namespace, &request.get_ref().sandbox_id).await;
        let sandbox = Some(encode(found.map_err(status::of)?));
        Ok(Response::new(api::StoreGetResponse { sandbox }))
    }
}
