//! What pods and containers use, read when it is asked for.

use std::collections::HashMap;
use std::sync::Arc;

use api::{List, v1};
use bytes::Bytes;
use pod::stats::PodMetrics;
use pod::{ContainerPhase, PodView};
use tonic::Status;

use super::RuntimeRpc;
use super::named::{container_id, pod_id};
use crate::convert::{filter, metrics, stats};
use crate::status::status;
use crate::streams::{Chunks, chunks, encoded, whole};

/// Of any container; one that does not run has its writable layer only.
pub(super) async fn container_stats(
    rpc: &RuntimeRpc,
    request: v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse, Status> {
    let id = container_id(rpc, request.container_id)?;
    let container = rpc.pods.container(&id).map_err(status)?;
    let read = rpc.pods.container_stats(vec![container.clone()]).await.map_err(status)?.pop();
    let stats = read.map(|read| stats::container(&container, &read));
    Ok(v1::ContainerStatsResponse { stats })
}

pub(super) async fn list_container_stats(
    rpc: &RuntimeRpc,
    request: v1::ListContainerStatsRequest,
) -> Result<List, Status> {
    whole(running(rpc, request.filter).await?.into_iter(), "StreamContainerStats")
}

pub(super) async fn stream_container_stats(
    rpc: &RuntimeRpc,
    request: v1::StreamContainerStatsRequest,
) -> Result<Chunks, Status> {
    Ok(chunks(running(rpc, request.filter).await?.into_iter()))
}

/// Of all that run (CRI ListContainerStats) and match.
async fn running(rpc: &RuntimeRpc, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<Bytes>, Status> {
    let mut containers = filter::container_stats(filter, rpc.pods.list_containers())?;
    containers.retain(|container| matches!(container.phase, ContainerPhase::Running { .. }));
    let read = rpc.pods.container_stats(containers.clone()).await.map_err(status)?;
    let read = containers.iter().zip(&read);
    // One that ended between the list and the look at it does not run any more.
    let running = read.filter(|(_, read)| read.usage.is_some());
    Ok(running.map(|(container, read)| encoded(&stats::container(container, read))).collect())
}

pub(super) async fn pod_sandbox_stats(
    rpc: &RuntimeRpc,
    request: v1::PodSandboxStatsRequest,
) -> Result<v1::PodSandboxStatsResponse, Status> {
    let id = pod_id(rpc, request.pod_sandbox_id)?;
    let view = rpc.pods.pod(&id).map_err(status)?;
    let stats = of_pods(rpc, vec![view]).await?.pop();
    Ok(v1::PodSandboxStatsResponse { stats })
}

pub(super) async fn list_pod_sandbox_stats(
    rpc: &RuntimeRpc,
    request: v1::ListPodSandboxStatsRequest,
) -> Result<List, Status> {
    let pods = filter::pod_stats(request.filter, rpc.pods.list())?;
    whole(of_pods(rpc, pods).await?.iter().map(encoded), "StreamPodSandboxStats")
}

pub(super) async fn stream_pod_sandbox_stats(
    rpc: &RuntimeRpc,
    request: v1::StreamPodSandboxStatsRequest,
) -> Result<Chunks, Status> {
    let pods = filter::pod_stats(request.filter, rpc.pods.list())?;
    Ok(chunks(of_pods(rpc, pods).await?.into_iter().map(|stats| encoded(&stats))))
}

async fn of_pods(rpc: &RuntimeRpc, pods: Vec<Arc<PodView>>) -> Result<Vec<v1::PodSandboxStats>, Status> {
    let read = rpc.pods.pod_stats(pods.clone()).await.map_err(status)?;
    Ok(pods.iter().zip(&read).map(|(view, read)| stats::pod(view, read)).collect())
}

/// The metrics of every pod that is ready. Nobody is told to wait for another: there is no rate limit.
///
/// Each pod's are encoded before the next one's are made: a hundred thousand strings are never there at once.
pub(super) async fn pod_sandbox_metrics(rpc: &RuntimeRpc) -> Result<Vec<Bytes>, Status> {
    let pods = rpc.pods.list();
    let read = rpc.pods.metrics(pods.clone()).await.map_err(status)?;
    let encode = move || {
        let by_id: HashMap<_, _> = pods.iter().map(|view| (&view.pod.id, view)).collect();
        let told = |pod: &PodMetrics| Some(encoded(&metrics::pod(by_id.get(&pod.pod)?, pod, &read)));
        pod::spread(&read.pods, told).into_iter().flatten().collect()
    };
    // Milliseconds of work: other requests shall not wait behind it.
    let encoded = tokio::task::spawn_blocking(encode).await;
    encoded.map_err(|broken| Status::internal(format!("encode metrics: {broken}")))
}
