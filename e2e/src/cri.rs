//! A CRI client whose calls block, so that tests read from top to bottom.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use api::v1::image_service_client::ImageServiceClient;
use api::v1::runtime_service_client::RuntimeServiceClient;
use api::v1::{self};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::wait::patient;

/// No call of a test may take longer; a longer one is a hang, and fails.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a kubelet takes in one message, bytes.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// The runtime all clients of this process share.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("start the client's runtime")
    })
}

/// Both services of one socket. It reconnects by itself when the service was restarted.
#[derive(Debug, Clone)]
pub struct Cri {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

/// Waits for an answer no longer than [`DEADLINE`], whatever the service makes of it.
async fn in_time<T>(
    method: &str,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("{method}: no answer at all"));
    let answer = tokio::time::timeout(patient(DEADLINE), answer).await;
    Ok(answer.map_err(late)??.into_inner())
}

/// One blocking method a call: `method(message) -> Result<reply, Status>`.
macro_rules! calls {
    ($($client:ident.$method:ident($request:ident) -> $response:ident;)*) => {$(
        #[doc = concat!("`", stringify!($request), "`, answered.")]
        pub fn $method(&self, request: v1::$request) -> Result<v1::$response, Status> {
            let mut client = self.$client.clone();
            runtime().block_on(async move {
                let mut request = Request::new(request);
                request.set_timeout(patient(DEADLINE));
                in_time(stringify!($method), client.$method(request)).await
            })
        }
    )*};
}

impl Cri {
    /// A client of the socket; it connects with the first call.
    pub fn new(socket: PathBuf) -> Self {
        Self::with(socket, |endpoint| endpoint)
    }

    /// As [`new`](Self::new), with HTTP/2 windows as small as grpc-go's: what a client that does not read is sent.
    pub fn with_small_windows(socket: PathBuf) -> Self {
        let bytes = Some(64 * 1024);
        Self::with(socket, |endpoint| {
            endpoint.initial_stream_window_size(bytes).initial_connection_window_size(bytes)
        })
    }

    fn with(socket: PathBuf, settings: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        let _inside = runtime().enter();
        let connect = move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        let endpoint = settings(Endpoint::from_static("http://localhost"));
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(connect));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            image: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            channel,
        }
    }

    /// The connection, for clients with a codec of their own.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The asynchronous client of the runtime service, for streams and for calls to be abandoned.
    pub fn raw(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The asynchronous client of the image service.
    pub fn raw_images(&self) -> ImageServiceClient<Channel> {
        self.image.clone()
    }

    /// How many items a list has, from an answer that was received whole and split into them, and no further: what its
    /// strings cost is the client's. `method` is a List call of the runtime service.
    pub fn list_items<R>(&self, method: &'static str, request: R) -> Result<usize, Status>
    where
        R: prost::Message + Default + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path =
            PathAndQuery::try_from(path).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut client =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        runtime().block_on(async move {
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<R, api::List>::default();
            let answer = client.unary(Request::new(request), path, codec);
            in_time(method, answer).await.map(|list| list.items.len())
        })
    }

    calls! {
        runtime.version(VersionRequest) -> VersionResponse;
        runtime.status(StatusRequest) -> StatusResponse;
        runtime.update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        runtime.runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        runtime.run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
        runtime.stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
        runtime.pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
        runtime.list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
        runtime.create_container(CreateContainerRequest) -> CreateContainerResponse;
        runtime.start_container(StartContainerRequest) -> StartContainerResponse;
        runtime.stop_container(StopContainerRequest) -> StopContainerResponse;
        runtime.remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
        runtime.container_status(ContainerStatusRequest) -> ContainerStatusResponse;
        runtime.list_containers(ListContainersRequest) -> ListContainersResponse;
        runtime.update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        runtime.update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
        runtime.checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        runtime.checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        runtime.restore_pod(RestorePodRequest) -> RestorePodResponse;
        runtime.reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        runtime.exec_sync(ExecSyncRequest) -> ExecSyncResponse;
        runtime.exec(ExecRequest) -> ExecResponse;
        runtime.attach(AttachRequest) -> AttachResponse;
        runtime.port_forward(PortForwardRequest) -> PortForwardResponse;
        runtime.container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        runtime.list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        runtime.pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        runtime.list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        image.list_images(ListImagesRequest) -> ListImagesResponse;
        image.image_status(ImageStatusRequest) -> ImageStatusResponse;
        image.pull_image(PullImageRequest) -> PullImageResponse;
        image.remove_image(RemoveImageRequest) -> RemoveImageResponse;
        image.image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    }
}

/// A reference as CRI wants it.
pub fn image_spec(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: reference.into(), user_specified_image: reference.into(), ..Default::default() }
}
