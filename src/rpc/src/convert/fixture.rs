//! A pod of one container that runs, for unit tests.

use std::sync::Arc;

use api::v1;
use model::{ContainerId, Digest, ImageId, PodId, Resources, Signal, UnixNanos};
use pod::{ContainerPhase, ContainerStatus, PodPhase, PodStatus, PodView, User};

use super::request::{container_config, pod_config};

/// When it was made; its container started five seconds before.
pub(crate) const AT: UnixNanos = 1_700_000_000_600_000_000;

pub(crate) fn view() -> PodView {
    let metadata =
        v1::PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "shop".into(), attempt: 0 };
    let config = v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let mut config = pod_config(Some(config), "crun".into()).unwrap();
    config.resources = Some(Resources::default());
    let pod = PodStatus {
        id: PodId::from_bytes([1; 32]),
        config: Arc::new(config),
        phase: PodPhase::Ready,
        created_at: AT,
        ips: vec![],
        netns: None,
        handler: "crun".into(),
        shim_pid: None,
        cni_result: None,
        cgroup: "/kubepods/podu".into(),
    };
    let requested = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: "sha256:00".into(),
            user_specified_image: "bb:1".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = ContainerStatus {
        id: ContainerId::from_bytes([2; 32]),
        pod: pod.id.clone(),
        config: Arc::new(container_config(Some(requested)).unwrap()),
        phase: ContainerPhase::Running { pid: 1, started_at: AT - 5_000_000_000 },
        created_at: AT,
        image_id: ImageId(Digest::sha256([3; 32])),
        image_ref: String::new(),
        log_path: None,
        resources: Resources { cpu_quota: 20_000, cpu_shares: 512, ..Resources::default() },
        user: User::default(),
        stop_signal: Signal::TERM,
        cgroup: "/kubepods/podu/c".into(),
        bundle: "/".into(),
        restored: false,
    };
    PodView { pod, containers: vec![container], revision: 1, at: 1 }
}
