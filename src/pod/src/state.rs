//! What a pod and a container are at one moment, and what others may see of it.
//!
//! ```text
//! pod:        Creating ──► Ready ──► Stopping ──► NotReady ──► Removing ──► (gone)
//!                 │                                   ▲
//!                 └── a step failed and its undo too ─┘      (undone cleanly: gone at once)
//!
//! container:  Creating ──► Created ──► Starting ──► Running ──► Exited ──► Removing ──► (gone)
//!                                          └──── start failed ────▲
//! ```
//! The pod's driver alone moves these. Everything to the left of an arrow is durable before what lies to
//! its right touches the host, so that a restart knows what to finish or undo; but for the removal of a container that
//! has exited and is cleared away, of which a restart finds nothing to undo (ADR 121).

use std::net::IpAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use model::{ContainerConfig, ContainerId, ImageId, PodConfig, PodId, Resources, Signal, UnixNanos};
use serde::{Deserialize, Serialize};

/// Where a pod is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Its steps are being made. After a crash: undone.
    Creating,
    /// It can hold containers.
    Ready,
    /// Its containers are being killed and its network taken down. After a crash: finished.
    Stopping,
    /// It holds nothing but records. Never ready again.
    NotReady {
        /// Why, for a person; empty when it was stopped as asked.
        why: String,
    },
    /// It is being removed. After a crash: finished.
    Removing,
}

impl PodPhase {
    /// The phase in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Ready => "ready",
            Self::Stopping => "being stopped",
            Self::NotReady { .. } => "not ready",
            Self::Removing => "being removed",
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When it started; `None` when it never did.
    pub started_at: Option<UnixNanos>,
    /// When it ended.
    pub finished_at: UnixNanos,
    /// Its exit status; 128 + n for signal n, 128 when it could not start, 255 when nobody saw its end.
    pub code: i32,
    /// Why, in CRI's word.
    pub reason: ExitReason,
    /// Why, for a person.
    pub message: String,
}

/// CRI's words for how a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit status 0.
    Completed,
    /// Any other exit status, or a signal.
    Error,
    /// The kernel killed it for its memory limit.
    OomKilled,
    /// It could not be started.
    StartError,
    /// Nobody saw it end.
    Unknown,
}

impl ExitReason {
    /// As ContainerStatus.reason has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Its bundle is being made. After a crash: undone.
    Creating,
    /// Its bundle is whole; nothing runs.
    Created,
    /// The OCI runtime has been asked to run it. After a crash: as the shim says.
    Starting,
    /// Its process runs.
    Running {
        /// On the host.
        pid: u32,
        /// When it started.
        started_at: UnixNanos,
    },
    /// Its process has ended.
    Exited(Exit),
    /// It is being removed. After a crash: finished.
    Removing(Option<Exit>),
}

impl ContainerPhase {
    /// The phase in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created, not started",
            Self::Starting => "being started",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
            Self::Removing(_) => "being removed",
        }
    }
}

/// A pod as others see it.
#[derive(Clone, Debug)]
pub struct PodStatus {
    /// Its id.
    pub id: PodId,
    /// As it was asked for, with what was updated since.
    pub config: Arc<PodConfig>,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// When it was created.
    pub created_at: UnixNanos,
    /// Its addresses in CNI's order; empty with the host's network and once it is stopped.
    pub ips: Vec<IpAddr>,
    /// Its pinned network namespace; `None` with the host's network and once it is stopped.
    pub netns: Option<PathBuf>,
    /// The OCI runtime's name in the configuration: the default's where the request named none.
    pub handler: String,
    /// Its shim on the host, where one is connected.
    pub shim_pid: Option<u32>,
    /// The result of the CNI plugins, as they gave it.
    pub cni_result: Option<serde_json::Value>,
    /// Its cgroup, relative to the hierarchy's root.
    pub cgroup: String,
}

/// The user that a container was started as (CRI LinuxContainerUser).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one among them.
    pub supplemental_groups: Vec<u32>,
}

/// A container as others see it.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// As it was asked for.
    pub config: Arc<ContainerConfig>,
    /// Where it is in its life.
    pub phase: ContainerPhase,
    /// When it was created.
    pub created_at: UnixNanos,
    /// The image that it was made from.
    pub image_id: ImageId,
    /// That image by repository digest, or its id where it has none.
    pub image_ref: String,
    /// Absolute; `None`: the log is discarded.
    pub log_path: Option<PathBuf>,
    /// What it may use, with what was updated since.
    pub resources: Resources,
    /// Who its process is.
    pub user: User,
    /// What StopContainer sends first.
    pub stop_signal: Signal,
    /// Its cgroup, relative to the hierarchy's root (cgroupfs form).
    pub cgroup: String,
    /// Its OCI bundle.
    pub bundle: PathBuf,
    /// Whether it goes on from a checkpoint.
    pub restored: bool,
}

/// A pod and all its containers, from one moment.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The pod.
    pub pod: PodStatus,
    /// Its containers by creation, then id. Those still being created are not among them.
    pub containers: Vec<ContainerStatus>,
    /// Rises with each change of this pod.
    pub revision: u64,
    /// When it became so: later than every earlier revision, whatever the clock does.
    pub at: UnixNanos,
}

impl PodView {
    /// One of its containers.
    pub fn container(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.containers.iter().find(|container| container.id == *id)
    }
}

/// A container where it was found: in a view of its pod, which is shared and not copied.
#[derive(Clone, Debug)]
pub struct ContainerInView {
    view: Arc<PodView>,
    place: usize,
}

impl ContainerInView {
    /// Every container of a pod.
    pub fn all(view: &Arc<PodView>) -> impl Iterator<Item = Self> {
        (0..view.containers.len()).map(|place| Self { view: Arc::clone(view), place })
    }

    /// One container of a pod.
    pub fn of(view: Arc<PodView>, id: &ContainerId) -> Option<Self> {
        let place = view.containers.iter().position(|container| container.id == *id)?;
        Some(Self { view, place })
    }

    /// The view that it is in.
    pub fn view(&self) -> &Arc<PodView> {
        &self.view
    }

    /// Where it is among that view's containers.
    pub fn place(&self) -> usize {
        self.place
    }
}

impl Deref for ContainerInView {
    type Target = ContainerStatus;

    fn deref(&self) -> &ContainerStatus {
        // `place` was found in this very view, which nobody can change.
        &self.view.containers[self.place]
    }
}
