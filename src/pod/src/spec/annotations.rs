//! The annotations that Kata, gVisor, device hooks and auditing tools read from a bundle: containerd's set, which
//! they all know (containerd, `internal/cri/annotations`).

use std::collections::BTreeMap;

use model::{PodConfig, PodId, PodIdentity};

use super::SpecInput;

const PREFIX: &str = "io.kubernetes.cri";

pub(super) fn annotations(input: &SpecInput<'_>) -> BTreeMap<String, String> {
    let own = [
        ("container-type", "container".to_owned()),
        ("container-name", input.container.name.clone()),
        ("image-name", input.container.image.image.clone()),
    ];
    named(identity(input.pod_id, &input.pod.identity).into_iter().chain(own))
}

/// A sandbox's: what it may use is told here alone, as a handler that has a machine for each pod wants it.
pub(crate) fn pod_annotations(pod_id: &PodId, pod: &PodConfig) -> BTreeMap<String, String> {
    let resources = pod.resources.clone().unwrap_or_default();
    let number = |number: i64| number.to_string();
    let own = [
        ("container-type", "sandbox".to_owned()),
        (
            "sandbox-log-directory",
            pod.log_directory.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        ),
        ("sandbox-cpu-period", number(resources.cpu_period)),
        ("sandbox-cpu-quota", number(resources.cpu_quota)),
        ("sandbox-cpu-shares", number(resources.cpu_shares)),
        ("sandbox-memory", number(resources.memory_limit)),
    ];
    named(identity(pod_id, &pod.identity).into_iter().chain(own))
}

fn identity(pod_id: &PodId, identity: &PodIdentity) -> [(&'static str, String); 4] {
    [
        ("sandbox-id", pod_id.to_string()),
        ("sandbox-name", identity.name.clone()),
        ("sandbox-namespace", identity.namespace.clone()),
        ("sandbox-uid", identity.uid.clone()),
    ]
}

fn named(entries: impl Iterator<Item = (&'static str, String)>) -> BTreeMap<String, String> {
    entries.map(|(name, value)| (format!("{PREFIX}.{name}"), value)).collect()
}
