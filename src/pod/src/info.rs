//! What a person who debugs wants to see of a pod or container (verbose status): the names that other
//! runtimes use, so that tools find `info.pid` and `info.runtimeSpec` where they look for them.

use model::NamespaceMode;
use serde_json::{Value, json};

use crate::Pods;
use crate::config::{PodPaths, PodsConfig};
use crate::error::PodError;
use crate::spec;
use crate::state::{ContainerPhase, ContainerStatus, PodPhase, PodStatus, PodView};

/// Others name the interface of their shims here; ours is an OCI runtime, run as a program.
const RUNTIME_TYPE: &str = "oci";

impl Pods {
    /// Everything about a pod or a container, by id or unique prefix: a JSON object. May wait for the disk.
    ///
    /// # Errors
    /// An id that neither has.
    pub fn info(&self, id: &str) -> Result<Value, PodError> {
        match self.pod(id) {
            Ok(view) => Ok(pod_info(&view, self.config())),
            Err(PodError::PodNotFound(_)) => {
                let (container, handle) = self.container_with_pod(id)?;
                let handler = handle.view().pod.handler.clone();
                Ok(container_info(&container, &handler, self.config()))
            }
            Err(error) => Err(error),
        }
    }
}

fn pod_info(view: &PodView, node: &PodsConfig) -> Value {
    let pod = &view.pod;
    let why = match &pod.phase {
        PodPhase::NotReady { why } => why.as_str(),
        _ => "",
    };
    let own_network = pod.config.security.namespaces.network == NamespaceMode::Pod;
    json!({
        "phase": pod.phase.word(),
        "reason": why,
        // There is no pause process. A container's is in the same namespaces, which is what people enter it for.
        "pid": view.containers.iter().map(pid).find(|pid| *pid > 0).unwrap_or(0),
        "processStatus": if pod.phase == PodPhase::Ready { "running" } else { "deleted" },
        "shimPid": pod.shim_pid,
        "netns": pod.netns,
        "netNamespaceClosed": own_network && pod.netns.is_none(),
        "image": "",
        "snapshotKey": "",
        "snapshotter": "",
        "runtimeHandler": pod.handler,
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": runtime_options(&pod.handler, node),
        "runtimeSpec": pod_spec(pod, node),
        "cgroup": pod.cgroup,
        "ips": pod.ips,
        "cniResult": pod.cni_result,
        "sandboxMetadata": {
            "ID": pod.id,
            "Name": pod.config.identity.to_string(),
            "NetNSPath": pod.netns,
            "IP": pod.ips.first(),
            "AdditionalIPs": pod.ips.get(1..).unwrap_or_default(),
            "RuntimeHandler": pod.config.runtime_handler,
        },
        "config": &*pod.config,
        "overhead": pod.config.overhead,
        "resources": pod.config.resources,
        "containers": view.containers.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(),
        "revision": view.revision,
    })
}

/// The sandbox in the words of the OCI: there is no bundle of its own, and tools look for its namespaces here.
fn pod_spec(pod: &PodStatus, node: &PodsConfig) -> Value {
    let (paths, modes) = (PodPaths::new(node, &pod.id), &pod.config.security.namespaces);
    let ready = pod.phase == PodPhase::Ready;
    let pinned = [
        ("network", pod.netns.clone().filter(|_| modes.network == NamespaceMode::Pod)),
        ("ipc", Some(paths.ipc()).filter(|_| ready && modes.ipc == NamespaceMode::Pod)),
        ("uts", Some(paths.uts()).filter(|_| ready && modes.network == NamespaceMode::Pod)),
    ];
    let namespaces =
        pinned.into_iter().filter_map(|(kind, path)| Some(json!({ "type": kind, "path": path? })));
    json!({
        "hostname": crate::sandbox::hostname(&pod.id, &pod.config),
        "annotations": spec::pod_annotations(&pod.id, &pod.config),
        "linux": {
            "namespaces": namespaces.collect::<Vec<_>>(),
            "cgroupsPath": pod.cgroup,
            "sysctl": pod.config.sysctls,
        },
    })
}

fn container_info(container: &ContainerStatus, handler: &str, node: &PodsConfig) -> Value {
    // Absent once the bundle is gone, which is no reason to hide the rest.
    let spec: Option<Value> = std::fs::read(container.bundle.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json!({
        "phase": container.phase.word(),
        "sandboxID": container.pod,
        "pid": pid(container),
        "removing": matches!(container.phase, ContainerPhase::Removing(_)),
        "snapshotKey": container.id,
        "snapshotter": "overlayfs",
        "runtimeType": RUNTIME_TYPE,
        "runtimeOptions": runtime_options(handler, node),
        "privileged": container.config.security.privileged,
        "restored": container.restored,
        "imageId": container.image_id,
        "cgroup": container.cgroup,
        "bundle": container.bundle,
        "config": &*container.config,
        "runtimeSpec": spec,
    })
}

fn pid(container: &ContainerStatus) -> u32 {
    match container.phase {
        ContainerPhase::Running { pid, .. } => pid,
        _ => 0,
    }
}

/// Under the names that containerd gives to the options of its runc shim.
fn runtime_options(handler: &str, node: &PodsConfig) -> Value {
    let binary = node.handlers.get(handler).map(|handler| &handler.binary);
    json!({
        "binary_name": binary,
        "root": node.runtime_root(handler),
        "systemd_cgroup": node.cgroup_driver == crate::CgroupDriver::Systemd,
    })
}
