//! What no record knows of after a restart: directories, writable layers and networks of pods that are gone.
//!
//! The journal makes such things rare: a store that was lost or restored from a copy, or an operator's hand.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use model::{ContainerId, PodId};
use shim_client::ShimError;
use tracing::{info, warn};

use crate::bundle;
use crate::driver::Host;

/// Removes what belongs to no pod or container that is known.
pub(crate) async fn sweep(host: &Arc<Host>) {
    let handles = host.index.pods();
    let pods: HashSet<PodId> = handles.iter().map(|handle| handle.id.clone()).collect();
    let containers: HashSet<ContainerId> =
        handles.iter().flat_map(|handle| handle.view().containers.clone()).map(|status| status.id).collect();
    let config = Arc::clone(&host.sandboxes.config);
    let snapshots = Arc::clone(host.bundles.snapshots());
    let listed = tokio::task::spawn_blocking(move || {
        let mut owned: HashSet<ContainerId> = snapshots.containers().into_iter().collect();
        owned.extend(names(&config.state.join("containers")));
        (names::<PodId>(&config.state.join("pods")), owned)
    });
    let Ok((pod_dirs, bundles)) = listed.await else { return };
    for container in bundles.into_iter().filter(|id| !containers.contains(id)) {
        info!(container.id = container.short(), "removing a bundle that no record knows");
        if let Err(error) = bundle::undo(&host.bundles, &container).await {
            warn!(container.id = container.short(), error = model::chain(&error), "left where it is");
        }
    }
    // Plugins undo less once the namespace is gone: they come first.
    let live: Vec<PodId> = pods.iter().cloned().collect();
    host.sandboxes.network.collect(&live).await;
    for pod in pod_dirs.into_iter().filter(|id| !pods.contains(id)) {
        remove_pod_dir(host, &pod).await;
    }
}

async fn remove_pod_dir(host: &Arc<Host>, pod: &PodId) {
    info!(pod.id = pod.short(), "removing a pod's directory that no record knows");
    match host.sandboxes.shims.connect(pod).await {
        Ok(shim) => {
            if let Err(error) = shim.shutdown().await {
                // It still holds containers: nobody asked for their end.
                warn!(pod.id = pod.short(), error = model::chain(&error), "left where it is");
                return;
            }
        }
        Err(ShimError::NotRunning { .. }) => {}
        Err(error) => {
            warn!(pod.id = pod.short(), error = model::chain(&error), "left where it is");
            return;
        }
    }
    let config = Arc::clone(&host.sandboxes.config);
    let id = pod.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let _ = kernel::namespace::unpin(&config.netns(&id));
        crate::sandbox::remove_directory(&config.pod_dir(&id))
    });
    if let Ok(Err(error)) = removed.await {
        warn!(pod.id = pod.short(), error = model::chain(&error), "left where it is");
    }
}

/// The entries of a directory that are ids.
fn names<T: TryFrom<String>>(directory: &Path) -> Vec<T> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()?.try_into().ok()).collect()
}
