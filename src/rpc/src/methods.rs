//! The RPCs of CRI v1 by name, and what each may do before the service has taken over what was running.

/// One RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// As the contract writes it: `RunPodSandbox`.
    pub(crate) name: &'static str,
    /// Answered from the first moment on: says nothing about pods and changes nothing.
    pub(crate) early: bool,
}

/// What clients need to connect, and what never changes while the service lives.
const EARLY: [&str; 5] = ["Version", "Status", "ImageFsInfo", "RuntimeConfig", "ListMetricDescriptors"];

const RUNTIME: [&str; 37] = [
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "StreamPodSandboxes",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "StreamContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "StreamContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "StreamPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
    "CheckpointContainer",
    "CheckpointPod",
    "RestorePod",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "StreamPodSandboxMetrics",
    "RuntimeConfig",
    "UpdatePodSandboxResources",
];

const IMAGE: [&str; 6] =
    ["ListImages", "StreamImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"];

/// The RPC of an HTTP/2 path, `/runtime.v1.RuntimeService/Version`.
pub(crate) fn find(path: &str) -> Option<Method> {
    let (service, method) = path.strip_prefix("/runtime.v1.")?.split_once('/')?;
    let names: &[&'static str] = match service {
        "RuntimeService" => &RUNTIME,
        "ImageService" => &IMAGE,
        _ => return None,
    };
    let name = names.iter().find(|name| **name == method)?;
    Some(Method { name, early: EARLY.contains(name) })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_rpc_of_the_contract_is_known() {
        let set = prost_types::FileDescriptorSet::decode(api::DESCRIPTOR).unwrap();
        let mut known = 0;
        for service in &set.file[0].service {
            for method in &service.method {
                let path = format!("/runtime.v1.{}/{}", service.name(), method.name());
                assert_eq!(find(&path).unwrap().name, method.name());
                known += 1;
            }
        }
        assert_eq!(known, RUNTIME.len() + IMAGE.len());
        assert_eq!(find("/runtime.v1.RuntimeService/PullImage"), None);
        assert!(find("/runtime.v1.ImageService/ImageFsInfo").unwrap().early);
        assert!(!find("/runtime.v1.RuntimeService/ListPodSandbox").unwrap().early);
    }
}
