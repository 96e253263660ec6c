//! What the tests ask of the daemon.

use anyhow::{Result, ensure};
use containerd_api::{
    legacy::{
        AddProcessRequest, CreateContainerRequest, SignalRequest, UpdateContainerRequest, User,
    },
    services::containers::v1::GetContainerRequest,
};
use nix::sys::signal::Signal;
use tests::{Bed, eventually, legacy::text, within};

pub(crate) const SIGKILL: u32 = Signal::SIGKILL as u32;

pub(crate) const SIGTERM: u32 = Signal::SIGTERM as u32;

pub(crate) async fn start(bed: &Bed, id: &str, script: &str) -> Result<u32> {
    let bundle_path = text(&bed.bundle(id, script)?)?;
    create(bed, CreateContainerRequest { id: id.into(), bundle_path, ..Default::default() }).await
}

pub(crate) async fn create(bed: &Bed, request: CreateContainerRequest) -> Result<u32> {
    let created = within("create", bed.legacy().create_container(request)).await??;
    Ok(created.into_inner().pid)
}

pub(crate) async fn add(bed: &Bed, id: &str, script: &str) -> Result<u32> {
    let request = shell(id, script);
    let added = within("add a process", bed.legacy().add_process(request)).await??;
    Ok(added.into_inner().pid)
}

pub(crate) fn shell(id: &str, script: &str) -> AddProcessRequest {
    AddProcessRequest {
        id: id.into(),
        args: ["sh", "-c", script].map(String::from).into(),
        env: vec!["PATH=/bin".into()],
        user: Some(User::default()),
        ..AddProcessRequest::default()
    }
}

pub(crate) async fn signal(
    bed: &Bed,
    id: &str,
    pid: u32,
    signal: u32,
) -> Result<(), tonic::Status> {
    let request = SignalRequest { id: id.into(), pid, signal };
    bed.legacy().signal(request).await.map(drop)
}

pub(crate) async fn update(
    bed: &Bed,
    id: &str,
    status: &str,
    signal: u32,
) -> Result<(), tonic::Status> {
    let request = UpdateContainerRequest { id: id.into(), status: status.into(), signal };
    bed.legacy().update_container(request).await.map(drop)
}

/// Ends a container, and waits until it is gone.
pub(crate) async fn end(bed: &Bed, id: &str) -> Result<()> {
    signal(bed, id, 0, SIGKILL).await?;
    gone(bed, id).await
}

pub(crate) async fn gone(bed: &Bed, id: &str) -> Result<()> {
    eventually(async || {
        let found = bed.legacy_container(id).await;
        ensure!(found.is_err(), "{id} is still there: {found:?}");
        let record = bed.api().containers().get(GetContainerRequest { id: id.into() }).await;
        ensure!(record.is_err(), "the record of {id} is still there");
        Ok(())
    })
    .await
}
