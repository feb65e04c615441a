//! Reads what pods and containers use: cgroups, interfaces, writable layers. Nothing here fails as a whole:
//! what vanished meanwhile, or cannot be read, is absent.

use std::sync::Arc;

use kernel::clock::now;
use tracing::debug;

use crate::Pods;
use crate::cgroups;
use crate::driver::Host;
use crate::state::{ContainerPhase, ContainerStatus, PodView};
use crate::stats::{ContainerStats, LayerUsage, NetworkUsage, PodStats, Usage};

impl Pods {
    /// What these containers use now, in their order.
    pub async fn container_stats(&self, containers: Vec<ContainerStatus>) -> Vec<ContainerStats> {
        let host = Arc::clone(&self.host);
        // Files of cgroups and layers are read, which blocks.
        let read = move || containers.iter().map(|status| container(&host, status)).collect();
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// What these pods and their containers use now, in their order.
    pub async fn pod_stats(&self, pods: Vec<Arc<PodView>>) -> Vec<PodStats> {
        let host = Arc::clone(&self.host);
        let read = move || pods.iter().map(|view| pod(&host, view)).collect();
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

fn container(host: &Host, status: &ContainerStatus) -> ContainerStats {
    let running = matches!(status.phase, ContainerPhase::Running { .. });
    let usage: Option<Usage> = match running {
        true => host.sampler.read(&cgroups::bounding(&host.hierarchy, &status.cgroup), now()),
        false => None,
    };
    let layer = match host.bundles.snapshots().usage(&status.id) {
        Ok(usage) => Some(LayerUsage {
            at: usage.at,
            mountpoint: host.sandboxes.config.root.join("containers"),
            bytes: usage.bytes,
            inodes: usage.inodes,
        }),
        Err(error) => {
            debug!(
                container.id = status.id.as_str(),
                error = model::chain(&error),
                "a writable layer's size"
            );
            None
        }
    };
    ContainerStats { container: status.id.clone(), usage, layer }
}

fn pod(host: &Host, view: &PodView) -> PodStats {
    let network = view.pod.netns.as_deref().and_then(|netns| match network::interface_stats(netns) {
        Ok(interfaces) => Some(NetworkUsage::new(interfaces, now())),
        Err(error) => {
            debug!(pod.id = view.pod.id.as_str(), error = model::chain(&error), "a pod's interfaces");
            None
        }
    });
    PodStats {
        pod: view.pod.id.clone(),
        usage: host.sampler.read(&host.hierarchy.group(&view.pod.cgroup), now()),
        network,
        containers: view.containers.iter().map(|status| container(host, status)).collect(),
    }
}
