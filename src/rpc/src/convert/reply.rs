//! The model's state as CRI messages. Nothing here can fail.

use api::v1;
use image::Image;
use model::{
    IdMapping, Mount, MountSource, NamespaceMode, Namespaces, PodIdentity, Propagation, Resources, UserMode,
};
use pod::{ContainerPhase, ContainerStatus, Exit, PodPhase, PodStatus};

use super::enums::cri_signal;

mod config;

pub(crate) use config::{container_config, pod_config};

/// READY, or anything else.
pub(crate) fn pod_state(phase: &PodPhase) -> v1::PodSandboxState {
    match phase {
        PodPhase::Ready => v1::PodSandboxState::SandboxReady,
        PodPhase::Creating | PodPhase::Stopping | PodPhase::NotReady { .. } | PodPhase::Removing => {
            v1::PodSandboxState::SandboxNotready
        }
    }
}

/// CREATED until the process runs; EXITED from its end on.
pub(crate) fn container_state(phase: &ContainerPhase) -> v1::ContainerState {
    match phase {
        ContainerPhase::Creating
        | ContainerPhase::Created
        | ContainerPhase::Starting
        | ContainerPhase::Removing(None) => v1::ContainerState::ContainerCreated,
        ContainerPhase::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerPhase::Exited(_) | ContainerPhase::Removing(Some(_)) => v1::ContainerState::ContainerExited,
    }
}

/// A sandbox's identity.
pub(crate) fn pod_metadata(identity: &PodIdentity) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: identity.name.clone(),
        uid: identity.uid.clone(),
        namespace: identity.namespace.clone(),
        attempt: identity.attempt,
    }
}

/// A sandbox in a list.
pub(crate) fn pod_sandbox(pod: &PodStatus) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(&pod.config.identity)),
        state: pod_state(&pod.phase).into(),
        created_at: pod.created_at,
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// A sandbox's status.
pub(crate) fn pod_status(pod: &PodStatus) -> v1::PodSandboxStatus {
    let mut ips = pod.ips.iter().map(ToString::to_string);
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(pod_metadata(&pod.config.identity)),
        state: pod_state(&pod.phase).into(),
        created_at: pod.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(namespaces(&pod.config.security.namespaces)) }),
        }),
        labels: pod.config.labels.clone(),
        annotations: pod.config.annotations.clone(),
        runtime_handler: pod.config.runtime_handler.clone(),
    }
}

/// A container's name and attempt.
pub(crate) fn container_metadata(container: &ContainerStatus) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: container.config.name.clone(), attempt: container.config.attempt }
}

/// A container in a list.
pub(crate) fn container(container: &ContainerStatus) -> v1::Container {
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: Some(container_metadata(container)),
        image: Some(image_spec(&container.config.image)),
        image_ref: container.image_ref.clone(),
        state: container_state(&container.phase).into(),
        created_at: container.created_at,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        image_id: container.image_id.to_string(),
    }
}

/// A container's status. What has not happened yet is 0 or empty.
pub(crate) fn container_status(container: &ContainerStatus) -> v1::ContainerStatus {
    let exit = exit(&container.phase);
    let started_at = match &container.phase {
        ContainerPhase::Running { started_at, .. } => *started_at,
        _ => exit.and_then(|exit| exit.started_at).unwrap_or_default(),
    };
    let config = &container.config;
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(container_metadata(container)),
        state: container_state(&container.phase).into(),
        created_at: container.created_at,
        started_at,
        finished_at: exit.map(|exit| exit.finished_at).unwrap_or_default(),
        exit_code: exit.map(|exit| exit.code).unwrap_or_default(),
        image: Some(named_image(&config.image)),
        image_ref: container.image_ref.clone(),
        reason: exit.map(|exit| exit.reason.as_str().to_owned()).unwrap_or_default(),
        message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.iter().map(mount).collect(),
        log_path: container.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources(&container.resources)),
            windows: None,
        }),
        image_id: container.image_id.to_string(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: container.user.uid.into(),
                gid: container.user.gid.into(),
                supplemental_groups: container
                    .user
                    .supplemental_groups
                    .iter()
                    .map(|gid| (*gid).into())
                    .collect(),
            }),
        }),
        stop_signal: cri_signal(container.stop_signal),
    }
}

fn exit(phase: &ContainerPhase) -> Option<&Exit> {
    match phase {
        ContainerPhase::Exited(exit) | ContainerPhase::Removing(Some(exit)) => Some(exit),
        ContainerPhase::Creating
        | ContainerPhase::Created
        | ContainerPhase::Starting
        | ContainerPhase::Running { .. }
        | ContainerPhase::Removing(None) => None,
    }
}

fn mount(from: &Mount) -> v1::Mount {
    let (host_path, image, image_sub_path) = match &from.source {
        MountSource::HostPath(path) => (path.display().to_string(), None, String::new()),
        MountSource::Image { image, sub_path } => {
            (String::new(), Some(image_spec(image)), sub_path.display().to_string())
        }
    };
    let propagation = match from.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: from.container_path.display().to_string(),
        host_path,
        readonly: from.readonly,
        selinux_relabel: from.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: from.uid_mappings.iter().map(id_mapping).collect(),
        gid_mappings: from.gid_mappings.iter().map(id_mapping).collect(),
        recursive_read_only: from.recursive_read_only,
        image,
        image_sub_path,
        mount_options: from.options.clone(),
    }
}

fn id_mapping(from: &IdMapping) -> v1::IdMapping {
    v1::IdMapping { host_id: from.host_id, container_id: from.container_id, length: from.length }
}

/// Namespace modes as they were asked for.
fn namespaces(from: &Namespaces) -> v1::NamespaceOption {
    let mode = |mode: &NamespaceMode| -> i32 {
        match mode {
            NamespaceMode::Pod => v1::NamespaceMode::Pod,
            NamespaceMode::Container => v1::NamespaceMode::Container,
            NamespaceMode::Node => v1::NamespaceMode::Node,
            NamespaceMode::Target(_) => v1::NamespaceMode::Target,
        }
        .into()
    };
    v1::NamespaceOption {
        network: mode(&from.network),
        pid: mode(&from.pid),
        ipc: mode(&from.ipc),
        target_id: match &from.pid {
            NamespaceMode::Target(id) => id.to_string(),
            _ => String::new(),
        },
        userns_options: from.user.as_ref().map(|mode| match mode {
            UserMode::Node => {
                v1::UserNamespace { mode: v1::NamespaceMode::Node.into(), ..v1::UserNamespace::default() }
            }
            UserMode::Pod(own) => v1::UserNamespace {
                mode: v1::NamespaceMode::Pod.into(),
                uids: own.uids.iter().map(id_mapping).collect(),
                gids: own.gids.iter().map(id_mapping).collect(),
            },
        }),
    }
}

/// Limits and weights.
pub(crate) fn resources(from: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        memory_limit_in_bytes: from.memory_limit,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus.clone(),
        cpuset_mems: from.cpuset_mems.clone(),
        hugepage_limits: from
            .hugepage_limits
            .iter()
            .map(|page| v1::HugepageLimit { page_size: page.page_size.clone(), limit: page.limit })
            .collect(),
        unified: from.unified.clone(),
        memory_swap_limit_in_bytes: from.memory_swap_limit,
    }
}

fn image_spec(from: &model::ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: from.image.clone(),
        annotations: from.annotations.clone(),
        user_specified_image: from.user_specified_image.clone(),
        runtime_handler: from.runtime_handler.clone(),
        image_ref: from.image_ref.clone(),
    }
}

/// An image as a container's status tells it. A kubelet creates containers by an image's id, with the name that the pod
/// has for it beside; what it finds here becomes `image` in the pod's status, where people look for the name.
fn named_image(from: &model::ImageSpec) -> v1::ImageSpec {
    let mut spec = image_spec(from);
    if !spec.user_specified_image.is_empty() {
        spec.image.clone_from(&spec.user_specified_image);
    }
    spec
}

/// A uid where the image wrote a number, else a name; `0` is a number.
fn image_user(user: &str) -> (Option<v1::Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// An image.
pub(crate) fn image(from: &Image) -> v1::Image {
    let (uid, username) = image_user(&from.config.user);
    let name = [&from.repo_tags, &from.repo_digests].into_iter().flatten().next();
    v1::Image {
        id: from.id.to_string(),
        repo_tags: from.repo_tags.clone(),
        repo_digests: from.repo_digests.clone(),
        size: from.size,
        uid,
        username,
        spec: Some(v1::ImageSpec {
            image: name.cloned().unwrap_or_else(|| from.id.to_string()),
            ..v1::ImageSpec::default()
        }),
        pinned: from.pinned,
    }
}

#[cfg(test)]
mod tests;
