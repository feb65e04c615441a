//! Sandboxes: run, stop, remove, status, lists, resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{List, v1};
use bytes::Bytes;
use tonic::Status;
use tracing::Span;

use super::RuntimeRpc;
use super::named::pod_id;
use super::verbose;
use crate::convert::request::{pod_config, resources};
use crate::convert::{Under as _, filter, reply};
use crate::status::status;
use crate::streams::{Chunks, chunks, whole};

pub(super) async fn run_pod_sandbox(
    rpc: &RuntimeRpc,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse, Status> {
    let config = pod_config(request.config, request.runtime_handler)?;
    let id = rpc.pods.run_pod(config).await.map_err(status)?;
    Span::current().record("pod.id", id.as_str());
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}

pub(super) async fn stop_pod_sandbox(
    rpc: &RuntimeRpc,
    request: v1::StopPodSandboxRequest,
) -> Result<v1::StopPodSandboxResponse, Status> {
    rpc.pods.stop_pod(&pod_id(rpc, request.pod_sandbox_id)?).await.map_err(status)?;
    Ok(v1::StopPodSandboxResponse {})
}

pub(super) async fn remove_pod_sandbox(
    rpc: &RuntimeRpc,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse, Status> {
    rpc.pods.remove_pod(&pod_id(rpc, request.pod_sandbox_id)?).await.map_err(status)?;
    Ok(v1::RemovePodSandboxResponse {})
}

pub(super) async fn pod_sandbox_status(
    rpc: &RuntimeRpc,
    request: v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    let id = pod_id(rpc, request.pod_sandbox_id)?;
    let view = rpc.pods.pod(&id).map_err(status)?;
    let info = match request.verbose {
        true => verbose::of_pod(rpc.pods.info(&id).map_err(status)?, &view),
        false => BTreeMap::new(),
    };
    Ok(v1::PodSandboxStatusResponse {
        status: Some(reply::pod_status(&view.pod)),
        info,
        containers_statuses: view.containers.iter().map(reply::container_status).collect(),
        // That of the state, as in the events. Not to a kubelet, which is never verbose: where it finds a timestamp it
        // forgets which containers are the present sandbox's, and runs init containers for ever (ADR 133).
        timestamp: if request.verbose { view.at } else { 0 },
    })
}

/// Those that match, in a snapshot that costs a pointer each.
fn listed(
    rpc: &RuntimeRpc,
    filter: Option<v1::PodSandboxFilter>,
) -> Result<impl Iterator<Item = Bytes> + use<>, Status> {
    let pods = rpc.pods.list();
    rpc.memo.trim(pods.len());
    let pods = filter::pods(filter, pods)?;
    let memo = Arc::clone(&rpc.memo);
    Ok(pods.into_iter().map(move |view| memo.pod(&view)))
}

pub(super) async fn list_pod_sandbox(
    rpc: &RuntimeRpc,
    request: v1::ListPodSandboxRequest,
) -> Result<List, Status> {
    whole(listed(rpc, request.filter)?, "StreamPodSandboxes")
}

pub(super) async fn stream_pod_sandboxes(
    rpc: &RuntimeRpc,
    request: v1::StreamPodSandboxesRequest,
) -> Result<Chunks, Status> {
    Ok(chunks(listed(rpc, request.filter)?))
}

pub(super) async fn update_pod_sandbox_resources(
    rpc: &RuntimeRpc,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
    let id = pod_id(rpc, request.pod_sandbox_id)?;
    let overhead = request.overhead.map(resources).transpose().under("overhead")?;
    let resources = request.resources.map(resources).transpose().under("resources")?;
    rpc.pods.update_pod(&id, overhead, resources).await.map_err(status)?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}
