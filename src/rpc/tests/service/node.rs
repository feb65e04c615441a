//! A node without pods: real rooms on a temporary directory, no network, no shim.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::v1::image_service_client::ImageServiceClient;
use api::v1::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use image::{ImageConfig, Images, Overlay};
use network::fake::FakeNetwork;
use pod::{CgroupDriver, ContainerDefaults, OciHandler, Pods, PodsConfig, Rooms};
use rpc::{
    Condition, Conditions, Handler, ImageRpc, Node, Readiness, RuntimeRpc, Streaming, StreamingConfig,
};
use shim_client::LocalShims;
use telemetry::Metrics;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// A service that serves; it ends and its files go when this is dropped.
pub(crate) struct Started {
    pub(crate) socket: PathBuf,
    /// Whether it has taken over what ran.
    pub(crate) recovered: watch::Sender<bool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) images: Images,
    pub(crate) streaming: SocketAddr,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    channel: Channel,
    _directory: tempfile::TempDir,
}

/// One that has recovered.
pub(crate) async fn start() -> Started {
    let started = Started::shut().await;
    started.recovered.send_replace(true);
    started
}

impl Started {
    /// One that has not.
    pub(crate) async fn shut() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (root, state) = (directory.path().join("root"), directory.path().join("state"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        let metrics = Metrics::new();
        let images = Images::open(ImageConfig::new(&root)).unwrap();
        let rooms = Rooms {
            images: images.clone(),
            snapshots: Arc::new(Overlay::new(&images).unwrap()),
            network: Arc::new(FakeNetwork::faultless()),
            shims: Arc::new(LocalShims::new("/nonexistent/shim".into(), state.clone(), root.clone())),
            metrics: Arc::clone(&metrics),
        };
        let pods = Pods::open(pods_config(root, &state), rooms).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        port.set_nonblocking(true).unwrap();
        let (streaming, server) = Streaming::listen(port, StreamingConfig::default()).unwrap();
        let address = streaming.address();
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(pods.clone(), stop.clone()));
        let socket = state.join("gantline.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let recovered = watch::Sender::new(false);
        let serving = rpc::serve(
            listener,
            RuntimeRpc::new(pods, node(), streaming),
            ImageRpc::new(images.clone(), ["crun".to_owned()]),
            Readiness::after(recovered.subscribe()),
            metrics.operations.clone(),
            stop.clone().cancelled_owned(),
            Duration::from_secs(2),
        );
        let served = tokio::spawn(async move { serving.await.unwrap() });
        let channel = connect(socket.clone()).await;
        Self {
            socket,
            recovered,
            metrics,
            images,
            streaming: address,
            stop,
            served,
            channel,
            _directory: directory,
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel()).max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn image(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel())
    }

    /// Asks the service to end, and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.served).await.unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn node() -> Node {
    Node {
        version: "1.2.3".into(),
        handlers: vec![Handler {
            name: "crun".into(),
            default: true,
            recursive_read_only: true,
            user_namespaces: false,
        }],
        conditions: Box::new(|| Conditions {
            runtime: Condition::Ready,
            network: Condition::NotReady { reason: "NoConf".into(), message: "none".into() },
        }),
        describe: Box::new(|| BTreeMap::from([("config".to_owned(), serde_json::json!({ "root": "/x" }))])),
        set_pod_cidr: Box::new(|_| Ok(())),
    }
}

fn pods_config(root: PathBuf, state: &std::path::Path) -> PodsConfig {
    PodsConfig {
        root,
        state: state.to_owned(),
        netns_dir: state.join("netns"),
        handlers: BTreeMap::from([(
            "crun".to_owned(),
            OciHandler { binary: "/nonexistent/crun".into(), ..OciHandler::default() },
        )]),
        default_handler: "crun".into(),
        cgroup_driver: CgroupDriver::Cgroupfs,
        cgroup_parent: "/gantline-rpc-test".into(),
        log_line_bytes_max: model::limits::LOG_LINE_BYTES_DEFAULT,
        path_helper: None,
        defaults: ContainerDefaults {
            capabilities: Vec::new(),
            seccomp_when_unset: false,
            seccomp_profile: None,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            rlimits: Vec::new(),
            absent_mount_sources_to_reject: Vec::new(),
            image_defined_volumes: true,
            pids_limit: None,
            device_ownership_from_security_context: false,
            cdi_spec_dirs: Vec::new(),
        },
    }
}
