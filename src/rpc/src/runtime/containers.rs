//! Containers: create, start, stop, remove, status, lists, resources, logs.

use std::collections::BTreeMap;

use api::v1;
use tonic::Status;
use tracing::Span;

use super::RuntimeRpc;
use super::named::{container_id, pod_id};
use super::pods::verbose;
use crate::convert::request::{container_config, resources, seconds};
use crate::convert::{Invalid, Under as _, filter, reply};
use crate::status::status;
use crate::streams::{Chunks, chunks};

/// The sandbox's own configuration comes again with each container; the one of RunPodSandbox counts.
pub(super) async fn create_container(
    rpc: &RuntimeRpc,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse, Status> {
    let pod = pod_id(rpc, request.pod_sandbox_id)?;
    let config = container_config(request.config)?;
    let id = rpc.pods.create_container(&pod, config).await.map_err(status)?;
    Span::current().record("container.id", id.as_str());
    Ok(v1::CreateContainerResponse { container_id: id.to_string() })
}

pub(super) async fn start_container(
    rpc: &RuntimeRpc,
    request: v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse, Status> {
    rpc.pods.start_container(&container_id(rpc, request.container_id)?).await.map_err(status)?;
    Ok(v1::StartContainerResponse {})
}

pub(super) async fn stop_container(
    rpc: &RuntimeRpc,
    request: v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse, Status> {
    let id = container_id(rpc, request.container_id)?;
    let grace = seconds("timeout", request.timeout)?;
    rpc.pods.stop_container(&id, grace).await.map_err(status)?;
    Ok(v1::StopContainerResponse {})
}

pub(super) async fn remove_container(
    rpc: &RuntimeRpc,
    request: v1::RemoveContainerRequest,
) -> Result<v1::RemoveContainerResponse, Status> {
    rpc.pods.remove_container(&container_id(rpc, request.container_id)?).await.map_err(status)?;
    Ok(v1::RemoveContainerResponse {})
}

pub(super) async fn container_status(
    rpc: &RuntimeRpc,
    request: v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse, Status> {
    let id = container_id(rpc, request.container_id)?;
    let container = rpc.pods.container(&id).map_err(status)?;
    let info = match request.verbose {
        true => verbose(&rpc.pods.info(&id).map_err(status)?),
        false => BTreeMap::new(),
    };
    Ok(v1::ContainerStatusResponse { status: Some(reply::container_status(&container)), info })
}

fn listed(rpc: &RuntimeRpc, filter: Option<v1::ContainerFilter>) -> Result<Vec<v1::Container>, Status> {
    let containers = filter::containers(filter, rpc.pods.list_containers())?;
    Ok(containers.iter().map(reply::container).collect())
}

pub(super) async fn list_containers(
    rpc: &RuntimeRpc,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse, Status> {
    Ok(v1::ListContainersResponse { containers: listed(rpc, request.filter)? })
}

pub(super) async fn stream_containers(
    rpc: &RuntimeRpc,
    request: v1::StreamContainersRequest,
) -> Result<Chunks<v1::StreamContainersResponse>, Status> {
    let containers = listed(rpc, request.filter)?;
    Ok(chunks(containers, |containers| v1::StreamContainersResponse { containers }))
}

/// No resources at all leave everything as it is, and still want the container to be there.
pub(super) async fn update_container_resources(
    rpc: &RuntimeRpc,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse, Status> {
    let id = container_id(rpc, request.container_id)?;
    if request.windows.is_some() {
        return Err(Invalid::new("windows", "is set, and this is Linux").into());
    }
    let resources = resources(request.linux.unwrap_or_default()).under("linux")?;
    rpc.pods.update_container(&id, resources).await.map_err(status)?;
    Ok(v1::UpdateContainerResourcesResponse {})
}

pub(super) async fn reopen_container_log(
    rpc: &RuntimeRpc,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse, Status> {
    rpc.pods.reopen_log(&container_id(rpc, request.container_id)?).await.map_err(status)?;
    Ok(v1::ReopenContainerLogResponse {})
}
