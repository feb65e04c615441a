//! RuntimeService: one line per RPC here, one file per family beside it. Each handler validates, makes one
//! call into the pod room, and converts the answer.

mod checkpoints;
mod containers;
mod events;
mod exec;
mod identity;
mod memo;
mod named;
mod pods;
mod stats;
mod verbose;

use std::sync::Arc;

use api::served::runtime_service_server::RuntimeService;
use api::{List, v1};
use pod::Pods;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub use identity::{Condition, Conditions, Handler, Node, NodeError, SetPodCidr};

use self::memo::Memo;
use crate::streaming::Streaming;
use crate::streams::{Chunks, chunks, encoded, whole};

/// The runtime service.
#[derive(Clone)]
pub struct RuntimeRpc {
    pods: Pods,
    node: Arc<Node>,
    streaming: Streaming,
    /// Cancelled when the server drains: streams without an end of their own end then.
    drain: CancellationToken,
    memo: Arc<Memo>,
}

impl RuntimeRpc {
    /// Serves these pods.
    pub fn new(pods: Pods, node: Node, streaming: Streaming) -> Self {
        let (node, drain, memo) = (Arc::new(node), CancellationToken::new(), Arc::default());
        Self { pods, node, streaming, drain, memo }
    }

    pub(crate) fn drain(&self) -> CancellationToken {
        self.drain.clone()
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeRpc {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        identity::version(self, request.into_inner()).await.map(Response::new)
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        pods::run_pod_sandbox(self, request.into_inner()).await.map(Response::new)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        pods::stop_pod_sandbox(self, request.into_inner()).await.map(Response::new)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        pods::remove_pod_sandbox(self, request.into_inner()).await.map(Response::new)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        pods::pod_sandbox_status(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<List>, Status> {
        pods::list_pod_sandbox(self, request.into_inner()).await.map(Response::new)
    }

    type StreamPodSandboxesStream = Chunks;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        pods::stream_pod_sandboxes(self, request.into_inner()).await.map(Response::new)
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        containers::create_container(self, request.into_inner()).await.map(Response::new)
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        containers::start_container(self, request.into_inner()).await.map(Response::new)
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        containers::stop_container(self, request.into_inner()).await.map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        containers::remove_container(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<List>, Status> {
        containers::list_containers(self, request.into_inner()).await.map(Response::new)
    }

    type StreamContainersStream = Chunks;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        containers::stream_containers(self, request.into_inner()).await.map(Response::new)
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        containers::container_status(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        containers::update_container_resources(self, request.into_inner()).await.map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        containers::reopen_container_log(self, request.into_inner()).await.map(Response::new)
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        exec::exec_sync(self, request.into_inner()).await.map(Response::new)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        exec::exec(self, request.into_inner()).await.map(Response::new)
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        exec::attach(self, request.into_inner()).await.map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        exec::port_forward(self, request.into_inner()).await.map(Response::new)
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        stats::container_stats(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<List>, Status> {
        stats::list_container_stats(self, request.into_inner()).await.map(Response::new)
    }

    type StreamContainerStatsStream = Chunks;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        stats::stream_container_stats(self, request.into_inner()).await.map(Response::new)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        stats::pod_sandbox_stats(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<List>, Status> {
        stats::list_pod_sandbox_stats(self, request.into_inner()).await.map(Response::new)
    }

    type StreamPodSandboxStatsStream = Chunks;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        stats::stream_pod_sandbox_stats(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        identity::update_runtime_config(self, request.into_inner()).await.map(Response::new)
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        identity::status_of(self, request.into_inner()).await.map(Response::new)
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        checkpoints::checkpoint_container(self, request.into_inner()).await.map(Response::new)
    }

    async fn checkpoint_pod(
        &self,
        request: Request<v1::CheckpointPodRequest>,
    ) -> Result<Response<v1::CheckpointPodResponse>, Status> {
        checkpoints::checkpoint_pod(self, request.into_inner()).await.map(Response::new)
    }

    async fn restore_pod(
        &self,
        request: Request<v1::RestorePodRequest>,
    ) -> Result<Response<v1::RestorePodResponse>, Status> {
        checkpoints::restore_pod(self, request.into_inner()).await.map(Response::new)
    }

    type GetContainerEventsStream = Chunks<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        events::get_container_events(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<List>, Status> {
        let items = crate::convert::metrics::descriptors().iter().map(encoded).collect();
        Ok(Response::new(List { items }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<List>, Status> {
        let metrics = stats::pod_sandbox_metrics(self).await?;
        whole(metrics.into_iter(), "StreamPodSandboxMetrics").map(Response::new)
    }

    type StreamPodSandboxMetricsStream = Chunks;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let metrics = stats::pod_sandbox_metrics(self).await?;
        Ok(Response::new(chunks(metrics.into_iter())))
    }

    async fn runtime_config(
        &self,
        request: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        identity::runtime_config(self, request.into_inner()).await.map(Response::new)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        pods::update_pod_sandbox_resources(self, request.into_inner()).await.map(Response::new)
    }
}
