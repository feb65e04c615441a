//! What pods and containers use, read when it is asked for.

use std::sync::Arc;

use api::v1;
use pod::{ContainerPhase, ContainerStatus, PodView};
use tonic::Status;

use super::RuntimeRpc;
use super::named::{container_id, pod_id};
use crate::convert::{filter, stats};
use crate::status::status;
use crate::streams::{Chunks, chunks};

/// Of any container; one that does not run has its writable layer only.
pub(super) async fn container_stats(
    rpc: &RuntimeRpc,
    request: v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse, Status> {
    let id = container_id(rpc, request.container_id)?;
    let container = rpc.pods.container(&id).map_err(status)?;
    let stats = of_containers(rpc, vec![container]).await.pop();
    Ok(v1::ContainerStatsResponse { stats })
}

pub(super) async fn list_container_stats(
    rpc: &RuntimeRpc,
    request: v1::ListContainerStatsRequest,
) -> Result<v1::ListContainerStatsResponse, Status> {
    Ok(v1::ListContainerStatsResponse { stats: running(rpc, request.filter).await? })
}

pub(super) async fn stream_container_stats(
    rpc: &RuntimeRpc,
    request: v1::StreamContainerStatsRequest,
) -> Result<Chunks<v1::StreamContainerStatsResponse>, Status> {
    let stats = running(rpc, request.filter).await?;
    Ok(chunks(stats, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
}

/// Of all that run (CRI ListContainerStats) and match.
async fn running(
    rpc: &RuntimeRpc,
    filter: Option<v1::ContainerStatsFilter>,
) -> Result<Vec<v1::ContainerStats>, Status> {
    let mut containers = filter::container_stats(filter, rpc.pods.list_containers())?;
    containers.retain(|container| matches!(container.phase, ContainerPhase::Running { .. }));
    Ok(of_containers(rpc, containers).await)
}

async fn of_containers(rpc: &RuntimeRpc, containers: Vec<ContainerStatus>) -> Vec<v1::ContainerStats> {
    let read = rpc.pods.container_stats(containers.clone()).await;
    containers.iter().zip(&read).map(|(container, read)| stats::container(container, read)).collect()
}

pub(super) async fn pod_sandbox_stats(
    rpc: &RuntimeRpc,
    request: v1::PodSandboxStatsRequest,
) -> Result<v1::PodSandboxStatsResponse, Status> {
    let id = pod_id(rpc, request.pod_sandbox_id)?;
    let view = rpc.pods.pod(&id).map_err(status)?;
    let stats = of_pods(rpc, vec![view]).await.pop();
    Ok(v1::PodSandboxStatsResponse { stats })
}

pub(super) async fn list_pod_sandbox_stats(
    rpc: &RuntimeRpc,
    request: v1::ListPodSandboxStatsRequest,
) -> Result<v1::ListPodSandboxStatsResponse, Status> {
    let pods = filter::pod_stats(request.filter, rpc.pods.list())?;
    Ok(v1::ListPodSandboxStatsResponse { stats: of_pods(rpc, pods).await })
}

pub(super) async fn stream_pod_sandbox_stats(
    rpc: &RuntimeRpc,
    request: v1::StreamPodSandboxStatsRequest,
) -> Result<Chunks<v1::StreamPodSandboxStatsResponse>, Status> {
    let pods = filter::pod_stats(request.filter, rpc.pods.list())?;
    let stats = of_pods(rpc, pods).await;
    Ok(chunks(stats, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}

async fn of_pods(rpc: &RuntimeRpc, pods: Vec<Arc<PodView>>) -> Vec<v1::PodSandboxStats> {
    let read = rpc.pods.pod_stats(pods.clone()).await;
    pods.iter().zip(&read).map(|(view, read)| stats::pod(view, read)).collect()
}
