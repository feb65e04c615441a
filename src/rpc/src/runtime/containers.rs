//! Containers: create, start, stop, remove, status, lists, resources, logs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use api::{List, v1};
use bytes::Bytes;
use model::{ContainerConfig, ImageSpec, MountSource};
use tonic::Status;
use tracing::Span;

use super::RuntimeRpc;
use super::named::{container_id, pod_id};
use super::verbose;
use crate::convert::request::{absolute, container_config, resources, seconds};
use crate::convert::{Invalid, Under as _, filter, reply};
use crate::status::status;
use crate::streams::{Chunks, chunks, whole};

pub(super) async fn create_container(
    rpc: &RuntimeRpc,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse, Status> {
    let pod = pod_id(rpc, request.pod_sandbox_id)?;
    let mut config = container_config(request.config)?;
    known_handlers(rpc, &config)?;
    config.log_directory = log_directory(rpc, &pod, request.sandbox_config)?;
    let id = rpc.pods.create_container(&pod, config).await.map_err(status)?;
    Span::current().record("container.id", id.as_str());
    Ok(v1::CreateContainerResponse { container_id: id.to_string() })
}

/// A known handler makes no difference: all share one snapshotter.
pub(super) fn known_handlers(rpc: &RuntimeRpc, config: &ContainerConfig) -> Result<(), Invalid> {
    let known = |spec: &ImageSpec| {
        let name = &spec.runtime_handler;
        let known = name.is_empty() || rpc.node.handlers.iter().any(|handler| handler.name == *name);
        let refusal = || Invalid::new("runtime_handler", format!("{name:?} is not configured"));
        if known { Ok(()) } else { Err(refusal()) }
    };
    known(&config.image).under("config.image")?;
    for (n, mount) in config.mounts.iter().enumerate() {
        if let MountSource::Image { image, .. } = &mount.source {
            known(image).under(format_args!("config.mounts[{n}].image"))?;
        }
    }
    Ok(())
}

/// The sandbox's configuration comes again with each container. It cannot change, so it must be of this sandbox; only
/// the log directory may be another since the kubelet was configured anew, and then the container's log goes there.
fn log_directory(
    rpc: &RuntimeRpc,
    pod: &str,
    again: Option<v1::PodSandboxConfig>,
) -> Result<Option<PathBuf>, Status> {
    let Some(again) = again else { return Ok(None) };
    let view = rpc.pods.pod(pod).map_err(status)?;
    let made = &view.pod.config;
    let metadata = again.metadata.ok_or_else(|| Invalid::missing("sandbox_config.metadata"))?;
    if metadata != reply::pod_metadata(&made.identity) {
        let why = format!("is of another pod than sandbox {}, which is {}", view.pod.id, made.identity);
        return Err(Invalid::new("sandbox_config.metadata", why).into());
    }
    if again.log_directory.is_empty() {
        return Ok(None);
    }
    let directory = absolute("log_directory", again.log_directory).under("sandbox_config")?;
    Ok(Some(directory).filter(|directory| made.log_directory.as_ref() != Some(directory)))
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
        true => verbose::of_container(rpc.pods.info(&id).map_err(status)?, &container),
        false => BTreeMap::new(),
    };
    Ok(v1::ContainerStatusResponse { status: Some(reply::container_status(&container)), info })
}

/// Those that match, in a snapshot that costs a pointer each.
fn listed(
    rpc: &RuntimeRpc,
    filter: Option<v1::ContainerFilter>,
) -> Result<impl Iterator<Item = Bytes> + use<>, Status> {
    let containers = rpc.pods.list_containers();
    rpc.memo.trim(containers.len());
    let containers = filter::containers(filter, containers)?;
    let memo = Arc::clone(&rpc.memo);
    Ok(containers.into_iter().map(move |container| memo.container(&container)))
}

pub(super) async fn list_containers(
    rpc: &RuntimeRpc,
    request: v1::ListContainersRequest,
) -> Result<List, Status> {
    whole(listed(rpc, request.filter)?, "StreamContainers")
}

pub(super) async fn stream_containers(
    rpc: &RuntimeRpc,
    request: v1::StreamContainersRequest,
) -> Result<Chunks, Status> {
    Ok(chunks(listed(rpc, request.filter)?))
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
    if let Some(key) = request.annotations.keys().next() {
        // CRI: "experimental resources to update or other options". There are none here, and none may be ignored.
        let why = format!("{key:?} is no option of an update that this service knows");
        return Err(Invalid::new("annotations", why).into());
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
