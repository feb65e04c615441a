//! Wiring: each room gets its part of the configuration and handles to the rooms below it, and nothing else.
//!
//! [`App::build`] opens everything or nothing stays; [`App::run`] serves until a signal, then drains.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{ImageConfig, Images, LayerSink, Overlay, ProxyConfig};
use network::{Cni, CniConfig, CommitSink, NetworkStatus, PodNetwork};
use pod::{ContainerDefaults, OciHandler, Pods, PodsConfig, PrivilegedDevices, Rooms};
use rpc::{
    Condition, Conditions, Handler, ImageRpc, NodeError, Readiness, RuntimeRpc, Streaming, StreamingConfig,
    StreamingServer, TlsFiles,
};
use serde_json::json;
use shim_client::LocalShims;
use telemetry::{Metrics, Stages};
use tokio::net::UnixListener;

use crate::admin::{Admin, Node, Phase, Shown, TellConditions};
use crate::apparmor;
use crate::commands::version::VERSION;
use crate::config::value::{CgroupDriver, ImageDefinedVolumes, IpPreference, UnsetSeccomp};
use crate::config::{Config, reference};
use crate::counted::Counted;
use crate::drain::Drain;
use crate::health;
use crate::lock::{LockError, RootLock};
use crate::runtimes::{self, Runtimes, RuntimesError};
use crate::{notify, socket};

/// What stopped the service from starting. Nothing that ran before is touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The root directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An OCI runtime or the shim.
    #[error(transparent)]
    Runtimes(#[from] RuntimesError),
    /// A socket.
    #[error(transparent)]
    Bind(#[from] socket::BindError),
    /// A TCP address.
    #[error("listen on {setting} {address}")]
    Listen {
        /// Where it is configured.
        setting: &'static str,
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The admin thread.
    #[error("start the admin thread")]
    Admin(#[source] std::io::Error),
    /// A room.
    #[error("open the {room} room")]
    Room {
        /// Which.
        room: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The service, ready to run.
pub(crate) struct App {
    config: Config,
    listener: UnixListener,
    runtime: RuntimeRpc,
    image: ImageRpc,
    streaming: StreamingServer,
    pods: Pods,
    shown: Arc<Shown>,
    // In the order of their end: the door last, but before the root is given back.
    admin: Admin,
    lock: RootLock,
}

impl App {
    /// Takes the root, opens the rooms and binds the sockets; recovery begins. Must be called in the main
    /// runtime.
    pub(crate) async fn build(config: Config) -> Result<Self, BuildError> {
        let lock = RootLock::take(&config.root)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let found = runtimes::find(&config, &path)?;
        let shim = runtimes::find_shim(&config, &path)?;
        // Before the pod room looks at what is loaded.
        apparmor::ensure(&config.state, &path).await;

        let metrics = Metrics::new();
        let shown = Shown::new(Arc::clone(&metrics), config.socket());
        let admin = start_admin(&config, &shown)?;

        let House { images, network, pods } = open_rooms(&config, &found, shim, &metrics)?;
        // Unset in no configuration that was validated: any free port of loopback's.
        let address = config.streaming.address.0.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
        let streaming = listen("streaming.address", address)?;
        let (urls, streaming) =
            Streaming::listen(streaming, streaming_config(&config)).map_err(room("streaming"))?;
        let conditions = conditions(&pods, &network);
        shown.opened(Node {
            images: images.clone(),
            pods: pods.clone(),
            network: Arc::clone(&network),
            streaming: urls.clone(),
            conditions: Arc::clone(&conditions),
            root: config.root.clone(),
            main: tokio::runtime::Handle::current(),
        });
        let node = node(&config, &pods, network, conditions);
        let listener = socket::bind(&config.socket(), config.server.socket_mode.0, config.server.socket_gid)?;
        let listener = UnixListener::from_std(listener).map_err(room("rpc"))?;
        Ok(Self {
            runtime: RuntimeRpc::new(pods.clone(), node, urls),
            image: ImageRpc::new(images, pods.config().handlers.keys().cloned()),
            config,
            listener,
            streaming,
            pods,
            shown,
            admin,
            lock,
        })
    }

    /// Serves until `drain` begins, then finishes what is under way, within the grace. Pods keep running. The root is
    /// the caller's to give back, after the runtime: it touches the root to its end.
    pub(crate) async fn run(self, drain: Drain) -> (Result<(), rpc::ServeError>, RootLock) {
        let Self { config, listener, runtime, image, streaming, pods, shown, admin, lock } = self;
        let grace = config.server.drain_grace.0;
        tokio::spawn(notify::heartbeat());
        tokio::spawn(streaming.serve(pods.clone(), drain.token()));
        tokio::spawn({
            let (pods, shown) = (pods.clone(), Arc::clone(&shown));
            async move {
                pods.recovered().await;
                shown.recovered();
                tracing::info!("every pod of the last run is taken over; all requests are served");
            }
        });
        tracing::info!(path = %config.socket().display(), version = VERSION, "serving CRI");
        notify::ready();

        let operations = shown.metrics.operations.clone();
        // No task of its own: a service that has nothing under way ends before such a task is polled once, and
        // systemd would not be told.
        let stop = async {
            drain.begun().await;
            shown.enter(Phase::Draining);
            notify::stopping();
            let requests = shown.metrics.operations.in_flight();
            tracing::info!(requests, "stopping; pods keep running");
        };
        let readiness = Readiness::after(pods.recovery());
        let served = rpc::serve(listener, runtime, image, readiness, operations, stop, grace).await;
        // Jobs whose client went away go on by themselves; what the grace cuts off is journaled.
        if tokio::time::timeout(grace, pods.drained()).await.is_err() {
            tracing::warn!("work was still under way after {grace:?}; the next start finishes it");
        }
        remove(&config.socket());
        remove(&config.admin_socket());
        drop(admin);
        (served, lock)
    }
}

/// The rooms that pods are made of.
pub(crate) struct House {
    pub(crate) images: Images,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) pods: Pods,
}

/// Opens them; the recovery of the pods of the last run begins. The caller holds the root.
pub(crate) fn open_rooms(
    config: &Config,
    found: &Runtimes,
    shim: PathBuf,
    metrics: &Arc<Metrics>,
) -> Result<House, BuildError> {
    let stages = metrics.stages.clone();
    let (fetched, committed) = (Arc::clone(metrics), Arc::clone(metrics));
    let told = ImageConfig {
        stages: stages.clone(),
        fetched: LayerSink::new(move |bytes, took| fetched.node.layer_fetched(bytes, took)),
        commits: image::CommitSink::new(move |took| committed.node.committed("image", took)),
        ..image_config(config)
    };
    let images = Images::open(told).map_err(room("image"))?;
    let snapshots = Arc::new(Overlay::new(&images).map_err(room("snapshot"))?);
    let committed = Arc::clone(metrics);
    let commits = CommitSink::new(move |took| committed.node.committed("network", took));
    let cni = CniConfig { commits, ..cni_config(config, stages.clone()) };
    let cni = Cni::open(cni).map_err(room("network"))?;
    let network: Arc<dyn PodNetwork> = Arc::new(Counted { inner: cni, metrics: Arc::clone(metrics) });
    let shims = LocalShims::new(shim, config.state.clone(), config.root.clone()).timed(stages);
    let shims = Arc::new(shims);
    let rooms = Rooms {
        images: images.clone(),
        snapshots,
        network: Arc::clone(&network),
        shims,
        metrics: Arc::clone(metrics),
    };
    let pods = Pods::open(pods_config(config, found), rooms).map_err(room("pod"))?;
    Ok(House { images, network, pods })
}

fn remove(socket: &Path) {
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::debug!(path = %socket.display(), %error, "remove the socket");
    }
}

fn room<E>(room: &'static str) -> impl FnOnce(E) -> BuildError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| BuildError::Room { room, source: source.into() }
}

fn start_admin(config: &Config, shown: &Arc<Shown>) -> Result<Admin, BuildError> {
    let unix = socket::bind(&config.admin_socket(), 0o600, None)?;
    let tcp = config.metrics.address.0.map(|address| listen("metrics.address", address));
    Admin::start(Arc::clone(shown), unix, tcp.transpose()?).map_err(BuildError::Admin)
}

fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, BuildError> {
    socket::bind_tcp(address).map_err(|source| BuildError::Listen { setting, address, source })
}

/// The streaming server's part.
fn streaming_config(config: &Config) -> StreamingConfig {
    let streaming = &config.streaming;
    let pair = streaming.tls_certificate.clone().zip(streaming.tls_key.clone());
    StreamingConfig {
        idle: streaming.idle_timeout.0,
        creation: streaming.creation_timeout.0,
        token: streaming.token_timeout.0,
        sessions_max: streaming.sessions_max,
        tls: pair.map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_ca: streaming.tls_client_ca.clone(),
        }),
    }
}

/// The image room's part.
pub(crate) fn image_config(config: &Config) -> ImageConfig {
    let defaults = ImageConfig::new(&config.root);
    let threads = match config.images.unpack_threads {
        0 => defaults.unpack_threads_max,
        threads => threads,
    };
    ImageConfig {
        registry_config_dirs: config.images.certs_d.clone(),
        pinned: config.images.pinned.clone(),
        layers_at_once_max: config.images.fetches_max,
        unpack_threads_max: threads,
        proxies: ProxyConfig::from_environment(),
        ..defaults
    }
}

fn cni_config(config: &Config, stages: Stages) -> CniConfig {
    let network = &config.network;
    CniConfig {
        conf_dir: network.conf_dir.clone(),
        bin_dirs: network.bin_dirs.clone(),
        cache_dir: network.cache_dir.clone(),
        netns_dir: network.netns_dir.clone(),
        conf_template: network.conf_template.clone(),
        root: config.root.clone(),
        plugin_deadline: network.plugin_timeout.0,
        ip_preference: match network.ip_preference {
            IpPreference::Ipv4 => network::IpPreference::Ipv4,
            IpPreference::Ipv6 => network::IpPreference::Ipv6,
            IpPreference::Cni => network::IpPreference::Cni,
        },
        commits: CommitSink::default(),
        stages,
    }
}

fn pods_config(config: &Config, found: &Runtimes) -> PodsConfig {
    let driver = cgroup_driver(config.cgroup.driver);
    let handlers = found.handlers.iter().map(|(name, binary)| {
        let settings = config.runtimes.get(name).cloned().unwrap_or_default();
        let privileged_devices = match (
            settings.privileged_without_host_devices,
            settings.privileged_without_host_devices_all_devices_allowed,
        ) {
            (false, _) => PrivilegedDevices::All,
            (true, true) => PrivilegedDevices::Allowed,
            (true, false) => PrivilegedDevices::None,
        };
        let features = runtimes::features(binary).on_kernel(kernel::release::running());
        let handler = OciHandler {
            binary: binary.clone(),
            recursive_read_only: features.recursive_read_only,
            id_mapped_mounts: features.id_mapped_mounts,
            user_namespaces: features.user_namespaces,
            privileged_devices,
            cgroup_writable: settings.cgroup_writable,
            exec: runtimes::exec_by(config, name, binary),
        };
        (name.clone(), handler)
    });
    let security = &config.security;
    let bare = |name: &String| name.strip_prefix("CAP_").unwrap_or(name).to_owned();
    PodsConfig {
        root: config.root.clone(),
        state: config.state.clone(),
        netns_dir: config.network.netns_dir.clone(),
        handlers: handlers.collect(),
        default_handler: found.default.clone(),
        cgroup_driver: driver,
        cgroup_parent: match (driver, config.cgroup.parent.as_deref()) {
            (pod::CgroupDriver::Cgroupfs, parent) => parent.unwrap_or("/gantline").to_owned(),
            (pod::CgroupDriver::Systemd, slice) => slice_path(slice.unwrap_or("gantline.slice")),
        },
        log_line_bytes_max: config.pods.log_line_bytes_max,
        path_helper: Some(("/proc/self/exe".into(), vec![crate::flags::LOOK_AT_PATHS.to_owned()])),
        defaults: ContainerDefaults {
            capabilities: security.default_capabilities.iter().map(bare).collect(),
            seccomp_when_unset: security.unset_seccomp == UnsetSeccomp::RuntimeDefault,
            seccomp_profile: security.seccomp_profile.clone(),
            unprivileged_ports: security.unprivileged_ports,
            unprivileged_icmp: security.unprivileged_icmp,
            rlimits: config
                .pods
                .default_ulimits
                .iter()
                .map(|limit| (format!("RLIMIT_{}", limit.name.to_uppercase()), limit.soft, limit.hard))
                .collect(),
            absent_mount_sources_to_reject: config.pods.absent_mount_sources_to_reject.clone(),
            image_defined_volumes: config.pods.image_defined_volumes == ImageDefinedVolumes::Copy,
            pids_limit: config.pods.pids_limit.map(u64::from),
            device_ownership_from_security_context: security.device_ownership_from_security_context,
            cdi_spec_dirs: config.pods.cdi_spec_dirs.clone(),
        },
    }
}

/// What `auto` means here: systemd where it runs the host and the hierarchy is v2 alone.
fn cgroup_driver(configured: CgroupDriver) -> pod::CgroupDriver {
    let unified = || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    match configured {
        CgroupDriver::Cgroupfs => pod::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => pod::CgroupDriver::Systemd,
        CgroupDriver::Auto if sd_notify::booted().unwrap_or(false) && unified() => pod::CgroupDriver::Systemd,
        CgroupDriver::Auto => pod::CgroupDriver::Cgroupfs,
    }
}

/// Where systemd puts a slice: `a-b.slice` is `/a.slice/a-b.slice` (systemd.slice(5)).
fn slice_path(slice: &str) -> String {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("/{}.slice", &name[..end])).collect()
}

/// CRI's conditions as they are when asked.
fn conditions(pods: &Pods, network: &Arc<dyn PodNetwork>) -> TellConditions {
    let (pods, network) = (pods.clone(), Arc::clone(network));
    Arc::new(move || Conditions {
        runtime: health::condition(pods.is_recovered(), pods.health()),
        network: match network.status() {
            NetworkStatus::Ready => Condition::Ready,
            NetworkStatus::NotReady { reason, message } => {
                Condition::NotReady { reason: reason.to_owned(), message }
            }
        },
    })
}

/// What rpc cannot see for itself.
fn node(config: &Config, pods: &Pods, network: Arc<dyn PodNetwork>, conditions: TellConditions) -> rpc::Node {
    // From where the pod room has it: what Status offers is what a pod can get.
    let PodsConfig { handlers, default_handler, .. } = pods.config();
    let handlers = handlers.iter().map(|(name, handler)| Handler {
        name: name.clone(),
        default: name == default_handler,
        recursive_read_only: handler.recursive_read_only,
        user_namespaces: handler.user_namespaces,
    });
    let handlers = handlers.collect();
    let programs = pods.config().handlers.iter().map(|(name, handler)| (name.clone(), json!(handler.binary)));
    let programs = serde_json::Value::Object(programs.collect());
    let settings = reference::flat(config);
    let (described, told) = (Arc::clone(&network), network);
    let probed = pods.clone();
    rpc::Node {
        version: VERSION.to_owned(),
        handlers,
        conditions: Box::new(move || conditions()),
        describe: Box::new(move || {
            let mut entries = match described.describe() {
                serde_json::Value::Object(entries) => entries.into_iter().collect(),
                other => BTreeMap::from([("cni".to_owned(), other)]),
            };
            entries.insert("config".to_owned(), settings.clone());
            entries.insert(
                "build".to_owned(),
                json!({ "version": VERSION, "architecture": std::env::consts::ARCH }),
            );
            entries.insert("handlers".to_owned(), programs.clone());
            entries.insert("recovery".to_owned(), json!({ "done": probed.is_recovered() }));
            entries.insert("probe".to_owned(), health::describe(probed.health()));
            entries
        }),
        set_pod_cidr: Box::new(move |cidr| told.reconfigure(cidr).map_err(NodeError::new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_of_itself_reaches_the_pod_room() {
        let dir = tempfile::tempdir().unwrap();
        // Written by another process: a fork of this one would keep it open, and it could not be executed.
        let write = r#"printf '#!/bin/sh\necho "%s"\n' '{\"mountOptions\": [\"rro\"]}' > able
            printf '#!/bin/sh\nexit 1\n' > mute
            chmod +x able mute"#;
        let mut shell = kernel::process::command(Path::new("/bin/sh"));
        assert!(shell.args(["-c", write]).current_dir(dir.path()).status().unwrap().success());
        let found = Runtimes {
            handlers: ["able", "mute"].map(|name| (name.to_owned(), dir.path().join(name))).into(),
            default: "able".into(),
        };
        let handlers = pods_config(&Config::default(), &found).handlers;
        assert!(handlers["able"].recursive_read_only);
        assert_eq!(handlers["able"].binary, dir.path().join("able"));
        assert!(!handlers["mute"].recursive_read_only);
    }

    #[test]
    fn slices_lie_in_their_parents() {
        assert_eq!(slice_path("gantline.slice"), "/gantline.slice");
        assert_eq!(slice_path("kube-pods-burst.slice"), "/kube.slice/kube-pods.slice/kube-pods-burst.slice");
    }
}
