//! The rooms as the admin door sees them: counts, and what a person debugging a node wants to read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use image::Images;
use network::{NetworkStatus, PodNetwork};
use pod::{ContainerPhase, PodPhase, Pods};
use rpc::Streaming;
use serde_json::{Value, json};
use telemetry::Metrics;
use tokio::runtime::Handle;

use super::api::NodeStatus;

/// Handles to the open rooms.
pub(crate) struct Node {
    pub(crate) images: Images,
    pub(crate) pods: Pods,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) streaming: Streaming,
    /// Where requests and sessions run.
    pub(crate) main: Handle,
}

impl Node {
    /// What the node holds.
    pub(crate) fn status(&self) -> NodeStatus {
        let views = self.pods.list();
        let ready = views.iter().filter(|view| view.pod.phase == PodPhase::Ready).count();
        let containers = || views.iter().flat_map(|view| view.containers.iter());
        let running = containers()
            .filter(|container| matches!(container.phase, ContainerPhase::Running { .. }))
            .count();
        NodeStatus {
            pods_ready: ready,
            pods_not_ready: views.len() - ready,
            containers_running: running,
            containers_other: containers().count() - running,
            images: self.images.list().len(),
            image_bytes: self.images.usage().bytes,
            network_fault: match self.network.status() {
                NetworkStatus::Ready => String::new(),
                NetworkStatus::NotReady { message, .. } => message,
            },
        }
    }

    /// Brings the metrics that others count, or that are counts of what is there, up to date.
    pub(crate) fn collect(&self, metrics: &Metrics) {
        let status = self.status();
        metrics.pods.set("ready", status.pods_ready);
        metrics.pods.set("not_ready", status.pods_not_ready);
        metrics.containers.set("running", status.containers_running);
        metrics.containers.set("other", status.containers_other);
        let (sessions, tokens) = self.streaming.levels();
        metrics.streaming_sessions.set(sessions);
        metrics.streaming_tokens.set(tokens);
        metrics.tasks.set(self.main.metrics().num_alive_tasks());
        metrics.images.set(status.images);
        metrics.image_bytes.set(usize::try_from(status.image_bytes).unwrap_or(usize::MAX));
        let counters = self.images.counters();
        metrics.pull_bytes.reach(counters.pulled_bytes.load(Ordering::Relaxed));
        metrics.pulls.reach("ok", counters.pulls.load(Ordering::Relaxed));
        metrics.pulls.reach("failed", counters.pull_failures.load(Ordering::Relaxed));
        metrics.layers.reach("pulled", counters.layers_pulled.load(Ordering::Relaxed));
        metrics.layers.reach("reused", counters.layers_reused.load(Ordering::Relaxed));
        metrics.registry_retries.reach(counters.retries.load(Ordering::Relaxed));
    }

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
