//! What others see of a pod: built from its records, whole, at each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{ContainerId, PodId, UnixNanos};
use shim_client::Shim;

use super::Host;
use crate::records::{ContainerRecord, NetworkRecord, PodRecord};
use crate::state::{ContainerPhase, ContainerStatus, PodPhase, PodStatus, PodView};

/// A pod and its containers as their records and the shim have them.
pub(super) fn of(
    host: &Host,
    id: &PodId,
    record: &PodRecord,
    containers: &BTreeMap<ContainerId, ContainerRecord>,
    shim: Option<&Shim>,
    (revision, at): (u64, UnixNanos),
) -> PodView {
    let config = &host.sandboxes.config;
    let networked = matches!(record.phase, PodPhase::Creating | PodPhase::Ready);
    let network = record.network.as_ref().filter(|_| networked);
    let own_network = record.config.security.namespaces.network == model::NamespaceMode::Pod;
    let pod = PodStatus {
        id: id.clone(),
        config: Arc::clone(&record.config),
        phase: record.phase.clone(),
        created_at: record.created_at,
        ips: network.map(|network| network.ips.clone()).unwrap_or_default(),
        netns: (networked && own_network).then(|| config.netns(id)),
        handler: record.handler.clone(),
        shim_pid: shim.map(Shim::pid),
        cni_result: network.map(|network: &NetworkRecord| network.result.clone()),
        cgroup: record.cgroup.clone(),
    };
    let mut containers: Vec<ContainerStatus> = containers
        .iter()
        .filter(|(_, record)| record.phase != ContainerPhase::Creating)
        .map(|(id, record)| container_status(host, id, record))
        .collect();
    containers.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    PodView { pod, containers, revision, at }
}

fn container_status(host: &Host, id: &ContainerId, record: &ContainerRecord) -> ContainerStatus {
    ContainerStatus {
        id: id.clone(),
        pod: record.pod.clone(),
        config: Arc::clone(&record.config),
        phase: record.phase.clone(),
        created_at: record.created_at,
        image_id: record.image_id.clone(),
        image_ref: record.image_ref.clone(),
        log_path: record.log_path.clone(),
        resources: record.resources.clone(),
        user: record.user.clone(),
        stop_signal: record.stop_signal,
        cgroup: record.cgroup.clone(),
        bundle: host.sandboxes.config.bundle(id),
        restored: record.restored_from.is_some(),
    }
}
