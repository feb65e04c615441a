//! What the image room is told at its construction.

use std::path::PathBuf;
use std::time::Duration;

use store::CommitSink;
use telemetry::Stages;

use crate::progress::LayerSink;
use crate::registry::ProxyConfig;

/// The image room's settings. Everything has a default but the root.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Gantline's root directory; images lie in `<root>/image`, writable layers in `<root>/containers`.
    pub root: PathBuf,
    /// Directories of `<host>/hosts.toml`, searched in this order (containerd's `config_path`).
    pub registry_config_dirs: Vec<PathBuf>,
    /// References that are reported as pinned, so that the kubelet's GC spares them. `*` matches any text.
    pub pinned: Vec<String>,
    /// Layers that are fetched and unpacked at the same time, over all pulls.
    pub layers_at_once_max: usize,
    /// Threads that decompress, hash or write at the same time, over all pulls.
    pub unpack_threads_max: usize,
    /// How long a pull may go without a single byte.
    pub stall_max: Duration,
    /// How often a request to the last host that is left is tried before it is given up.
    pub attempts_max: u32,
    /// The first pause between two attempts; it doubles with each.
    pub backoff_first: Duration,
    /// How soon a writable layer is measured again, at the earliest.
    pub measure_period: Duration,
    /// Proxies on the way to registries; none unless given.
    pub proxies: ProxyConfig,
    /// Where the stages of pulls and imports are timed.
    pub stages: Stages,
    /// Who is told of each layer that was fetched.
    pub fetched: LayerSink,
    /// Who is told how long commits of the store take.
    pub commits: CommitSink,
}

impl ImageConfig {
    /// The defaults, under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            registry_config_dirs: vec![PathBuf::from("/etc/gantline/certs.d")],
            pinned: Vec::new(),
            layers_at_once_max: 6,
            unpack_threads_max: std::thread::available_parallelism().map_or(2, usize::from),
            stall_max: model::limits::PULL_STALL_MAX,
            attempts_max: 5,
            backoff_first: Duration::from_millis(200),
            measure_period: Duration::from_secs(10),
            proxies: ProxyConfig::default(),
            stages: Stages::default(),
            fetched: LayerSink::default(),
            commits: CommitSink::default(),
        }
    }
}
