//! `containerd.services.namespaces.v1.Namespaces`.

use containerd_api::services::namespaces::v1 as api;
use containerd_core::namespaces::{Namespace, Namespaces};
use shim_protocol::{Id, Result};
use tonic::{Request, Response, Status};

use super::convert::required;
use crate::status;

pub(super) struct Service(pub(super) Namespaces);

fn encode(namespace: Namespace) -> api::Namespace {
    api::Namespace { name: namespace.name.to_string(), labels: namespace.labels }
}

fn decode(namespace: Option<api::Namespace>) -> Result<Namespace> {
    let namespace = required("namespace", namespace)?;
    Ok(Namespace { name: Id::new("namespace", &namespace.name)?, labels: namespace.labels })
}

#[tonic::async_trait]
impl api::namespaces_server::Namespaces for Service {
    async fn get(
        &self,
        request: Request<api::GetNamespaceRequest>,
    ) -> Result<Response<api::GetNamespaceResponse>, Status> {
        let name = Id::new("namespace", &request.get_ref().name).map_err(status::of)?;
        let namespace = self.0.get(&name).await.map_err(status::of)?;
        Ok(Response::new(api::GetNamespaceResponse { namespace: Some(encode(namespace)) }))
    }

    async fn list(
        &self,
        request: Request<api::ListNamespacesRequest>,
    ) -> Result<Response<api::ListNamespacesResponse>, Status> {
        let filter = request.into_inner().filter;
        let filters = if filter.is_empty() { Vec::new() } else { vec![filter] };
        let found = self.0.list(&filters).await.map_err(status::of)?;
        let namespaces = found.into_iter().map(encode).collect();
        Ok(Response::new(api::ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<api::CreateNamespaceRequest>,
    ) -> Result<Response<api::CreateNamespaceResponse>, Status> {
        let namespace = decode(request.into_inner().namespace).map_err(status::of)?;
        let namespace = self.0.create(namespace).await.map_err(status::of)?;
        Ok(Response::new(api::CreateNamespaceResponse { namespace: Some(encode(namespace)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateNamespaceRequest>,
    ) -> Result<Response<api::UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let paths = request.update_mask.unwrap_or_default().paths;
        let namespace = decode(request.namespace).map_err(status::of)?;
        let namespace = self.0.update(namespace, &paths).await.map_err(status::of)?;
        Ok(Response::new(api::UpdateNamespaceResponse { namespace: Some(encode(namespace)) }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = Id::new("namespace", &request.get_ref().name).map_err(status::of)?;
        self.0.delete(&name).await.map_err(status::of)?;
        Ok(Response::new(()))
    }
}
