//! What a person who debugs wants to see of a pod or container (verbose status): the names that other
//! runtimes use, so that tools find `info.pid` and `info.runtimeSpec` where they look for them.

use serde_json::{Value, json};

use crate::Pods;
use crate::error::PodError;
use crate::state::{ContainerPhase, ContainerStatus, PodPhase, PodView};

impl Pods {
    /// Everything about a pod or a container, by id or unique prefix: a JSON object. May wait for the disk.
    ///
    /// # Errors
    /// An id that neither has.
    pub fn info(&self, id: &str) -> Result<Value, PodError> {
        match self.pod(id) {
            Ok(view) => Ok(pod_info(&view)),
            Err(PodError::PodNotFound(_)) => self.container(id).map(|status| container_info(&status)),
            Err(error) => Err(error),
        }
    }
}

fn pod_info(view: &PodView) -> Value {
    let pod = &view.pod;
    let why = match &pod.phase {
        PodPhase::NotReady { why } => why.as_str(),
        _ => "",
    };
    json!({
        "phase": pod.phase.word(),
        "reason": why,
        "pid": pod.shim_pid.unwrap_or(0),
        "shimPid": pod.shim_pid,
        "netns": pod.netns,
        "netNamespaceClosed": pod.netns.is_none(),
        "runtimeHandler": pod.handler,
        "cgroup": pod.cgroup,
        "ips": pod.ips,
        "cniResult": pod.cni_result,
        "config": &*pod.config,
        "overhead": pod.config.overhead,
        "resources": pod.config.resources,
        "containers": view.containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(),
        "revision": view.revision,
    })
}

fn container_info(container: &ContainerStatus) -> Value {
    let pid = match container.phase {
        ContainerPhase::Running { pid, .. } => pid,
        _ => 0,
    };
    // Absent once the bundle is gone, which is no reason to hide the rest.
    let spec: Option<Value> = std::fs::read(container.bundle.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json!({
        "phase": container.phase.word(),
        "sandboxID": container.pod,
        "pid": pid,
        "removing": matches!(container.phase, ContainerPhase::Removing(_)),
        "snapshotKey": container.id,
        "snapshotter": "overlayfs",
        "imageId": container.image_id,
        "cgroup": container.cgroup,
        "bundle": container.bundle,
        "config": &*container.config,
        "runtimeSpec": spec,
    })
}
