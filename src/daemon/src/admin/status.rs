//! `GET /status`: the service and the node as `gantline status` shows them. Nothing here waits for work: what is told is
//! in memory, or a file of /proc.

use std::path::PathBuf;

use kernel::{disk, procfs};
use pod::{ContainerPhase, Overview, PodPhase, PodView, Pods};
use serde::{Deserialize, Serialize};
use telemetry::Stages;

use super::node::Node;
use super::story::elapsed_ms;
use super::{Shown, node};
use crate::commands::version::VERSION;

/// Entries of each list in the answer.
const LISTED_MAX: usize = 10;

/// `GET /status`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The service's version.
    pub(crate) version: String,
    /// Its process.
    pub(crate) pid: u32,
    /// `starting`, `recovering`, `serving`, `draining`
    pub(crate) phase: String,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// How long recovery took, milliseconds; `None` while it goes on.
    pub(crate) recovery_ms: Option<u64>,
    /// CRI requests being served.
    pub(crate) requests_in_flight: u64,
    /// The CRI socket.
    pub(crate) socket: String,
    /// The rest, once the rooms are open.
    pub(crate) node: Option<NodeStatus>,
}

/// What the node holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    /// CRI's conditions.
    pub(crate) conditions: Vec<Condition>,
    /// Pods that are ready.
    pub(crate) pods_ready: usize,
    /// Pods that are not.
    pub(crate) pods_not_ready: usize,
    /// Containers that run.
    pub(crate) containers_running: usize,
    /// Containers that do not.
    pub(crate) containers_other: usize,
    /// Images that are listed.
    pub(crate) images: usize,
    /// Layer directories, bytes.
    pub(crate) image_bytes: u64,
    /// Writable layers, bytes, as they were measured last.
    pub(crate) writable_bytes: u64,
    /// Pulls under way.
    pub(crate) pulls_in_progress: usize,
    /// The file system of the root directory.
    pub(crate) disk: Option<Disk>,
    /// The processes beside pods.
    pub(crate) shims: Shims,
    /// Pods that the last start took over; `None` while it does.
    pub(crate) recovered_pods: Option<usize>,
    /// What is still to be done for pods that are over.
    pub(crate) owed: Owed,
    /// Streams of events.
    pub(crate) events: EventStreams,
    /// Stages under way, the oldest first, at most ten.
    pub(crate) under_way: Vec<UnderWay>,
    /// What stages cost since the start, the slowest on average first, at most ten.
    pub(crate) slowest_stages: Vec<StageCost>,
    /// What failed last, the newest first, at most ten.
    pub(crate) failures: Vec<Failure>,
}

/// One of CRI's conditions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Condition {
    /// `RuntimeReady`, `NetworkReady`
    pub(crate) name: String,
    /// Whether it is met.
    pub(crate) met: bool,
    /// Why not, in one word; empty when it is met.
    pub(crate) reason: String,
    /// Why not, for a person.
    pub(crate) message: String,
}

/// A file system.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// A directory on it: the service's root.
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// What is left.
    pub(crate) available_bytes: u64,
    /// Its inodes; 0: there is no such bound.
    pub(crate) inodes: u64,
    /// Those that are free.
    pub(crate) inodes_free: u64,
}

/// The processes beside pods.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Shims {
    /// Those that the service is connected to.
    pub(crate) connected: usize,
    /// Ready pods without one.
    pub(crate) lost: usize,
    /// Their memory.
    pub(crate) resident_bytes: u64,
}

/// What is still to be done for pods that are over.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Owed {
    /// Pods whose CNI DEL has not succeeded: `namespace/name`, or an id of one that is gone.
    pub(crate) cni_dels: Vec<String>,
    /// Pods that are being stopped or removed.
    pub(crate) pods_ending: usize,
    /// Records that could not be read and lie where they are, in words.
    pub(crate) records_unreadable: Vec<String>,
}

/// Streams of events.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct EventStreams {
    /// Those that are open.
    pub(crate) subscribers: usize,
    /// Those that ended because their reader fell behind, since the start.
    pub(crate) overflows: u64,
}

/// A stage under way.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct UnderWay {
    /// Its name in `gantline_stage_duration_seconds`.
    pub(crate) stage: String,
    /// Whose it is: `namespace/name`, or what the stage is about.
    pub(crate) subject: String,
    /// For how long, milliseconds.
    pub(crate) for_ms: u64,
}

/// What a stage cost.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct StageCost {
    /// Its name in `gantline_stage_duration_seconds`.
    pub(crate) stage: String,
    /// How often it was passed.
    pub(crate) count: u64,
    /// On average, milliseconds.
    pub(crate) mean_ms: f64,
    /// The slowest one, milliseconds.
    pub(crate) slowest_ms: f64,
}

/// Something that failed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// When, RFC 3339.
    pub(crate) at: String,
    /// `namespace/name`
    pub(crate) pod: String,
    /// What was attempted.
    pub(crate) what: String,
    /// The error with its causes.
    pub(crate) message: String,
}

/// The service as it is.
pub(super) fn tell(shown: &Shown) -> Status {
    Status {
        version: VERSION.to_owned(),
        pid: std::process::id(),
        phase: shown.phase().word().to_owned(),
        uptime_s: shown.started.elapsed().as_secs(),
        recovery_ms: shown.recovery_ms.get().copied(),
        requests_in_flight: shown.metrics.operations.in_flight(),
        socket: shown.socket.display().to_string(),
        node: shown.node.get().map(|node| of_node(node, &shown.metrics.stages)),
    }
}

fn of_node(node: &Node, stages: &Stages) -> NodeStatus {
    let views = node.pods.list();
    let overview = node.pods.overview();
    let counts = node::Counts::of(&views);
    NodeStatus {
        conditions: conditions(&(node.conditions)()),
        pods_ready: counts.pods_ready,
        pods_not_ready: counts.pods_not_ready,
        containers_running: counts.containers_running,
        containers_other: counts.containers_other,
        images: node.images.list().len(),
        image_bytes: node.images.usage().bytes,
        writable_bytes: node.images.writable_usage().bytes,
        pulls_in_progress: node.images.pulls_in_progress(),
        disk: disk::capacity(&node.root).ok().map(|capacity| Disk {
            path: node.root.clone(),
            size_bytes: capacity.bytes,
            available_bytes: capacity.bytes_available,
            inodes: capacity.inodes,
            inodes_free: capacity.inodes_free,
        }),
        shims: Shims {
            connected: overview.shims.len(),
            lost: overview.shims_lost,
            resident_bytes: resident(&overview),
        },
        recovered_pods: overview.recovery.map(|recovery| recovery.pods),
        owed: Owed {
            cni_dels: dels_owed(node),
            pods_ending: views
                .iter()
                .filter(|view| matches!(view.pod.phase, PodPhase::Stopping | PodPhase::Removing))
                .count(),
            records_unreadable: overview.unreadable.clone(),
        },
        events: EventStreams { subscribers: overview.event_subscribers, overflows: overview.event_overflows },
        under_way: under_way(&overview),
        slowest_stages: slowest(stages),
        failures: failures(&node.pods),
    }
}

/// CRI's conditions by name.
pub(super) fn conditions(conditions: &rpc::Conditions) -> Vec<Condition> {
    let told = |name: &str, condition: &rpc::Condition| match condition {
        rpc::Condition::Ready => Condition { name: name.to_owned(), met: true, ..Condition::default() },
        rpc::Condition::NotReady { reason, message } => {
            Condition { name: name.to_owned(), met: false, reason: reason.clone(), message: message.clone() }
        }
    };
    vec![told("RuntimeReady", &conditions.runtime), told("NetworkReady", &conditions.network)]
}

/// The memory of all shims, bytes.
pub(super) fn resident(overview: &Overview) -> u64 {
    overview.shims.iter().filter_map(|pid| procfs::resident_bytes(*pid)).sum()
}

/// Pods that a DEL is owed to though they are neither ready nor being made.
pub(super) fn dels_owed(node: &Node) -> Vec<String> {
    // Asked before the pods, so that each of these is known if it begins, and after them, for those that are paid meanwhile.
    let before = node.network.owed();
    let over = |id: String| match node.pods.find(&id) {
        Some(view) if matches!(view.pod.phase, PodPhase::Creating | PodPhase::Ready) => None,
        Some(view) => Some((named(&view), id)),
        None => Some((id.clone(), id)),
    };
    let mut owed: Vec<(String, String)> = before.into_iter().filter_map(over).collect();
    let still = node.network.owed();
    owed.retain(|(_, id)| still.contains(id));
    let mut owed: Vec<String> = owed.into_iter().map(|(name, _)| name).collect();
    owed.sort();
    owed
}

fn under_way(overview: &Overview) -> Vec<UnderWay> {
    let stages = overview.stages.iter().take(LISTED_MAX);
    let told = stages.map(|(now, pod)| UnderWay {
        stage: now.stage.to_owned(),
        subject: pod
            .as_ref()
            .map_or_else(|| now.subject.clone(), |pod| format!("{}/{}", pod.namespace, pod.name)),
        for_ms: elapsed_ms(now.since),
    });
    told.collect()
}

fn named(view: &PodView) -> String {
    let identity = &view.pod.config.identity;
    format!("{}/{}", identity.namespace, identity.name)
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn slowest(stages: &Stages) -> Vec<StageCost> {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    let mut all: Vec<StageCost> = stages
        .spent()
        .into_iter()
        .map(|(stage, spent)| StageCost {
            stage: stage.to_owned(),
            count: spent.count,
            mean_ms: ms(spent.total) / spent.count.max(1) as f64,
            slowest_ms: ms(spent.slowest),
        })
        .collect();
    all.sort_by(|a, b| b.mean_ms.total_cmp(&a.mean_ms));
    all.truncate(LISTED_MAX);
    all
}

fn failures(pods: &Pods) -> Vec<Failure> {
    let troubles = pods.last_troubles(LISTED_MAX).into_iter();
    let told = troubles.map(|trouble| Failure {
        at: model::time::rfc3339_text(trouble.at),
        pod: format!("{}/{}", trouble.identity.namespace, trouble.identity.name),
        what: trouble.what.to_owned(),
        message: trouble.message,
    });
    told.collect()
}

/// Whether a container's process runs.
pub(super) fn runs(phase: &ContainerPhase) -> bool {
    matches!(phase, ContainerPhase::Running { .. })
}
