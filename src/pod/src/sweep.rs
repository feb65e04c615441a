//! What no record knows of after a restart: directories, writable layers and networks of pods that are gone.
//!
//! The journal makes such things rare: a store that was lost or restored from a copy, a record that cannot be
//! read, or an operator's hand. A shim that still holds containers is left alone with all that is theirs:
//! nobody asked for their end.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use model::{ContainerId, PodId};
use shim_client::ShimError;
use tracing::{info, warn};

use crate::bundle;
use crate::driver::Host;

/// Removes what belongs to no pod or container that is known or that runs.
pub(crate) async fn sweep(host: &Arc<Host>) {
    let handles = host.index.pods();
    let mut pods: HashSet<PodId> = handles.iter().map(|handle| handle.id.clone()).collect();
    let mut containers: HashSet<ContainerId> =
        handles.iter().flat_map(|handle| handle.view().containers.clone()).map(|status| status.id).collect();
    let config = Arc::clone(&host.sandboxes.config);
    let snapshots = Arc::clone(host.bundles.snapshots());
    let listed = tokio::task::spawn_blocking(move || {
        let mut owned: HashSet<ContainerId> = snapshots.containers().into_iter().collect();
        owned.extend(names(&config.state.join("containers")));
        (names::<PodId>(&config.state.join("pods")), owned)
    });
    let Ok((pod_dirs, bundles)) = listed.await else { return };
    let mut dead = Vec::new();
    for pod in pod_dirs {
        if pods.contains(&pod) {
            continue;
        }
        match ask_to_end(host, &pod).await {
            Ok(None) => dead.push(pod),
            Ok(Some(held)) => {
                warn!(
                    pod.id = pod.as_str(),
                    containers = held.len(),
                    "a pod that no record knows still runs"
                );
                pods.insert(pod);
                containers.extend(held);
            }
            Err(error) => {
                // Whose the bundles are cannot be told: nothing is swept this time.
                warn!(pod.id = pod.as_str(), error = model::chain(&error), "a shim that no record knows");
                return;
            }
        }
    }
    for container in bundles.into_iter().filter(|id| !containers.contains(id)) {
        info!(container.id = container.as_str(), "removing a bundle that no record knows");
        if let Err(error) = bundle::undo(&host.bundles, &container).await {
            warn!(container.id = container.as_str(), error = model::chain(&error), "left where it is");
        }
    }
    let (volumes, known) = (Arc::clone(host.bundles.volumes()), pods.clone());
    let swept = tokio::task::spawn_blocking(move || volumes.sweep(|pod| known.contains(pod))).await;
    if let Ok(Err(error)) = swept {
        warn!(error = model::chain(&error), "image volumes of pods that no record knows stay");
    }
    // Plugins undo less once the namespace is gone: they come first.
    let live: Vec<PodId> = pods.into_iter().collect();
    host.sandboxes.network.collect(&live).await;
    for pod in dead {
        remove_pod_dir(host, pod).await;
    }
}

/// Ends the shim of a pod that no record knows. `None`: it is gone; else the containers that it still holds.
async fn ask_to_end(host: &Arc<Host>, pod: &PodId) -> Result<Option<Vec<ContainerId>>, ShimError> {
    let shim = match host.sandboxes.shims.connect(pod).await {
        Ok(shim) => shim,
        Err(ShimError::NotRunning { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let held: Vec<ContainerId> = shim.state().await?.into_iter().map(|c| c.container).collect();
    match shim.shutdown().await {
        Ok(()) => Ok(None),
        Err(_) if !held.is_empty() => Ok(Some(held)),
        Err(error) => Err(error),
    }
}

async fn remove_pod_dir(host: &Arc<Host>, pod: PodId) {
    info!(pod.id = pod.as_str(), "removing a pod's directory that no record knows");
    let config = Arc::clone(&host.sandboxes.config);
    let id = pod.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let unpinned = kernel::namespace::unpin(&config.netns(&id)).map_err(crate::error::Cause::host);
        unpinned.and_then(|()| crate::sandbox::remove_directory(&config.pod_dir(&id)))
    });
    if let Ok(Err(error)) = removed.await {
        warn!(pod.id = pod.as_str(), error = model::chain(&error), "left where it is");
    }
}

/// The entries of a directory that are ids.
fn names<T: TryFrom<String>>(directory: &Path) -> Vec<T> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()?.try_into().ok()).collect()
}
