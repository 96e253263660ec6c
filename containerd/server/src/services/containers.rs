//! `containerd.services.containers.v1.Containers`.

use std::time::SystemTime;

use containerd_api::services::containers::v1 as api;
use containerd_core::containers::{Container, Containers, Runtime};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use shim_protocol::{Id, Result};
use tonic::{Request, Response, Status};

use super::{
    convert::{any_in, any_out, required},
    headers,
};
use crate::status;

pub(super) struct Service(pub(super) Containers);

fn encode(container: Container) -> api::Container {
    let runtime = api::container::Runtime {
        name: container.runtime.name,
        options: container.runtime.options.map(any_out),
    };
    api::Container {
        id: container.id.to_string(),
        labels: container.labels,
        image: container.image,
        runtime: Some(runtime),
        spec: container.spec.map(any_out),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: Some(container.created_at.into()),
        updated_at: Some(container.updated_at.into()),
        extensions: container.extensions.into_iter().map(|(k, v)| (k, any_out(v))).collect(),
        sandbox: container.sandbox,
    }
}

fn decode(container: Option<api::Container>) -> Result<Container> {
    let container = required("container", container)?;
    let runtime = container.runtime.unwrap_or_default();
    Ok(Container {
        id: Id::new("container id", &container.id)?,
        labels: container.labels,
        image: container.image,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any_in) },
        spec: container.spec.map(any_in),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        // The store sets both.
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
        extensions: container.extensions.into_iter().map(|(k, v)| (k, any_in(v))).collect(),
        sandbox: container.sandbox,
    })
}

impl Service {
    async fn find(&self, request: Request<api::ListContainersRequest>) -> Result<Vec<Container>> {
        let namespace = headers::namespace(request.metadata())?;
        self.0.list(&namespace, &request.get_ref().filters).await
    }
}

#[tonic::async_trait]
impl api::containers_server::Containers for Service {
    async fn get(
        &self,
        request: Request<api::GetContainerRequest>,
    ) -> Result<Response<api::GetContainerResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let container = self.0.get(&namespace, &request.get_ref().id).await.map_err(status::of)?;
        Ok(Response::new(api::GetContainerResponse { container: Some(encode(container)) }))
    }

    async fn list(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<api::ListContainersResponse>, Status> {
        let found = self.find(request).await.map_err(status::of)?;
        let containers = found.into_iter().map(encode).collect();
        Ok(Response::new(api::ListContainersResponse { containers }))
    }

    type ListStreamStream = BoxStream<'static, Result<api::ListContainerMessage, Status>>;

    async fn list_stream(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<Self::ListStreamStream>, Status> {
        let found = self.find(request).await.map_err(status::of)?;
        let messages =
            stream::iter(found.into_iter().map(|container| {
                Ok(api::ListContainerMessage { container: Some(encode(container)) })
            }));
        Ok(Response::new(messages.boxed()))
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let container = decode(request.into_inner().container).map_err(status::of)?;
        let container = self.0.create(&namespace, container).await.map_err(status::of)?;
        Ok(Response::new(api::CreateContainerResponse { container: Some(encode(container)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateContainerRequest>,
    ) -> Result<Response<api::UpdateContainerResponse>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        let request = request.into_inner();
        let paths = request.update_mask.unwrap_or_default().paths;
        let container = decode(request.container).map_err(status::of)?;
        let container = self.0.update(&namespace, container, &paths).await.map_err(status::of)?;
        Ok(Response::new(api::UpdateContainerResponse { container: Some(encode(container)) }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = headers::namespace(request.metadata()).map_err(status::of)?;
        self.0.delete(&namespace, &request.get_ref().id).await.map_err(status::of)?;
        Ok(Response::new(()))
    }
}
