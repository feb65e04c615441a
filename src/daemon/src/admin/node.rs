//! The rooms as the admin door sees them, and what a person debugging a node wants to read of them.

use std::path::PathBuf;
use std::sync::Arc;

use image::Images;
use network::PodNetwork;
use pod::{PodPhase, PodView, Pods};
use rpc::{Conditions, Streaming};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::status::runs;

/// Tells CRI's conditions as they are now, from memory.
pub(crate) type TellConditions = Arc<dyn Fn() -> Conditions + Send + Sync>;

/// Handles to the open rooms.
pub(crate) struct Node {
    pub(crate) images: Images,
    pub(crate) pods: Pods,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) streaming: Streaming,
    pub(crate) conditions: TellConditions,
    /// The service's root directory.
    pub(crate) root: PathBuf,
    /// Where requests and sessions run.
    pub(crate) main: Handle,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) pods_ready: usize,
    pub(super) pods_not_ready: usize,
    pub(super) containers_running: usize,
    pub(super) containers_other: usize,
}

impl Counts {
    pub(super) fn of(views: &[Arc<PodView>]) -> Self {
        let pods_ready = views.iter().filter(|view| view.pod.phase == PodPhase::Ready).count();
        let containers = || views.iter().flat_map(|view| view.containers.iter());
        let containers_running = containers().filter(|container| runs(&container.phase)).count();
        Self {
            pods_ready,
            pods_not_ready: views.len() - pods_ready,
            containers_running,
            containers_other: containers().count() - containers_running,
        }
    }
}

impl Node {
    /// Each pod and container with its phase, the images by id, and the network.
    pub(crate) fn debug(&self) -> Value {
        let pods: Vec<_> = self
            .pods
            .list()
            .iter()
            .map(|view| {
                let containers: Vec<_> = view
                    .containers
                    .iter()
                    .map(|container| json!({ "id": container.id, "phase": container.phase.word() }))
                    .collect();
                json!({
                    "id": view.pod.id,
                    "name": view.pod.config.identity.to_string(),
                    "phase": view.pod.phase.word(),
                    "ips": view.pod.ips,
                    "shim_pid": view.pod.shim_pid,
                    "containers": containers,
                })
            })
            .collect();
        let images: Vec<_> = self
            .images
            .list()
            .iter()
            .map(|image| json!({ "id": image.id.as_str(), "names": image.repo_tags, "size": image.size }))
            .collect();
        json!({ "pods": pods, "images": images, "network": self.network.describe() })
    }
}
