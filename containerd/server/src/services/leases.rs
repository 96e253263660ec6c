//! `containerd.services.leases.v1.Leases`.

use containerd_api::services::leases::v1 as api;
use containerd_core::{
    gc::Scheduler,
    leases::{Lease, Leases, Resource},
};
use shim_protocol::Result;
use tonic::{Request, Response, Status};

use super::{convert::required, headers};
use crate::status;

pub(super) struct Service {
    pub(super) leases: Leases,
    pub(super) gc: Scheduler,
}

fn encode(lease: Lease) -> api::Lease {
    api::Lease { id: lease.id, created_at: Some(lease.created_at.into()), labels: lease.labels }
}

fn decode(resource: Option<api::Resource>) -> Result<Resource> {
    let resource = required("resource", resource)?;
    Ok(Resource { id: resource.id, kind: resource.r#type })
}

#[tonic::async_trait]
impl api::leases_server::Leases for Service {
    async fn create(
        &self,
        request: Request<api::CreateRequest>,
    ) -> Result<Response<api::CreateResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let lease = self
            .leases
            .create(&namespace, &request.id, request.labels)
            .await
            .map_err(status::of)?;
        Ok(Response::new(api::CreateResponse { lease: Some(encode(lease)) }))
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<()>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        self.leases.delete(&namespace, &request.get_ref().id).await.map_err(status::of)?;
        if request.get_ref().sync {
            self.gc.collect().await.map_err(status::of)?;
        }
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<api::ListResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let found =
            self.leases.list(&namespace, &request.get_ref().filters).await.map_err(status::of)?;
        let leases = found.into_iter().map(encode).collect();
        Ok(Response::new(api::ListResponse { leases }))
    }

    async fn add_resource(
        &self,
        request: Request<api::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let resource = decode(request.resource).map_err(status::of)?;
        self.leases.add_resource(&namespace, &request.id, resource).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<api::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let resource = decode(request.resource).map_err(status::of)?;
        self.leases.delete_resource(&namespace, &request.id, resource).await.map_err(status::of)?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<api::ListResourcesRequest>,
    ) -> Result<Response<api::ListResourcesResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let held =
            self.leases.resources(&namespace, &request.get_ref().id).await.map_err(status::of)?;
        let resources =
            held.into_iter().map(|r| api::Resource { id: r.id, r#type: r.kind }).collect();
        Ok(Response::new(api::ListResourcesResponse { resources }))
    }
}
