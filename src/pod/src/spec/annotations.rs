//! The annotations that Kata, gVisor, device hooks and auditing tools read from a bundle: containerd's set, which
//! they all know (containerd, `internal/cri/annotations`).

use std::collections::BTreeMap;

use super::SpecInput;

const PREFIX: &str = "io.kubernetes.cri";

pub(super) fn annotations(input: &SpecInput<'_>) -> BTreeMap<String, String> {
    let identity = &input.pod.identity;
    [
        ("container-type", "container"),
        ("sandbox-id", input.pod_id.as_str()),
        ("sandbox-name", &identity.name),
        ("sandbox-namespace", &identity.namespace),
        ("sandbox-uid", &identity.uid),
        ("container-name", &input.container.name),
        ("image-name", &input.container.image.image),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}.{name}"), value.to_owned()))
    .collect()
}
