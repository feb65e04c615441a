//! Configurations as they were asked for, for the verbose status: tools read `info.config` there as CRI's JSON.

use api::v1;
use model::{
    Capabilities, ContainerConfig, ContainerSecurity, MandatoryProfile, PodConfig, PodSecurity, Protocol,
    SeLinuxLabel, SupplementalGroupsPolicy,
};

use super::{cri_signal, image_spec, mount, namespaces, pod_metadata, resources};

/// A sandbox's.
pub(crate) fn pod_config(from: &PodConfig) -> v1::PodSandboxConfig {
    let words = |words: &[String]| words.to_vec();
    v1::PodSandboxConfig {
        metadata: Some(pod_metadata(&from.identity)),
        hostname: from.hostname.clone(),
        log_directory: from.log_directory.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        dns_config: from.dns.as_ref().map(|dns| v1::DnsConfig {
            servers: words(&dns.servers),
            searches: words(&dns.searches),
            options: words(&dns.options),
        }),
        port_mappings: from.port_mappings.iter().map(port_mapping).collect(),
        labels: from.labels.clone(),
        annotations: from.annotations.clone(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: from.cgroup_parent.clone(),
            security_context: Some(pod_security(&from.security)),
            sysctls: from.sysctls.clone(),
            overhead: from.overhead.as_ref().map(resources),
            resources: from.resources.as_ref().map(resources),
        }),
        windows: None,
    }
}

/// A container's.
pub(crate) fn container_config(from: &ContainerConfig) -> v1::ContainerConfig {
    let key_value =
        |(key, value): &(String, Vec<u8>)| v1::KeyValue { key: key.clone(), value: value.clone() };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: from.name.clone(), attempt: from.attempt }),
        image: Some(image_spec(&from.image)),
        command: from.command.clone(),
        args: from.args.clone(),
        working_dir: from.working_dir.clone(),
        envs: from.envs.iter().map(key_value).collect(),
        mounts: from.mounts.iter().map(mount).collect(),
        devices: from.devices.iter().map(device).collect(),
        labels: from.labels.clone(),
        annotations: from.annotations.clone(),
        log_path: from.log_path.display().to_string(),
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&from.resources)),
            security_context: Some(container_security(&from.security)),
        }),
        windows: None,
        cdi_devices: from.cdi_devices.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
        stop_signal: from.stop_signal.map(cri_signal).unwrap_or_default(),
    }
}

fn device(from: &model::Device) -> v1::Device {
    v1::Device {
        container_path: from.container_path.display().to_string(),
        host_path: from.host_path.display().to_string(),
        permissions: from.permissions.clone(),
    }
}

fn port_mapping(from: &model::PortMapping) -> v1::PortMapping {
    let protocol = match from.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: from.container_port.into(),
        host_port: from.host_port.into(),
        host_ip: from.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

#[allow(deprecated, reason = "the message has strings that newer fields have replaced")]
fn pod_security(from: &PodSecurity) -> v1::LinuxSandboxSecurityContext {
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&from.namespaces)),
        selinux_options: from.selinux.as_ref().map(selinux),
        run_as_user: id(from.run_as_user),
        run_as_group: id(from.run_as_group),
        readonly_rootfs: from.readonly_rootfs,
        supplemental_groups: from.supplemental_groups.clone(),
        supplemental_groups_policy: policy(from.supplemental_groups_policy),
        privileged: from.privileged,
        seccomp: from.seccomp.as_ref().map(profile),
        apparmor: from.apparmor.as_ref().map(profile),
        seccomp_profile_path: String::new(),
    }
}

#[allow(deprecated, reason = "the message has strings that newer fields have replaced")]
fn container_security(from: &ContainerSecurity) -> v1::LinuxContainerSecurityContext {
    v1::LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&from.capabilities)),
        privileged: from.privileged,
        namespace_options: Some(namespaces(&from.namespaces)),
        selinux_options: from.selinux.as_ref().map(selinux),
        run_as_user: id(from.run_as_user),
        run_as_group: id(from.run_as_group),
        run_as_username: from.run_as_username.clone(),
        readonly_rootfs: from.readonly_rootfs,
        supplemental_groups: from.supplemental_groups.clone(),
        supplemental_groups_policy: policy(from.supplemental_groups_policy),
        no_new_privs: from.no_new_privs,
        masked_paths: from.masked_paths.clone(),
        readonly_paths: from.readonly_paths.clone(),
        seccomp: from.seccomp.as_ref().map(profile),
        apparmor: from.apparmor.as_ref().map(profile),
        apparmor_profile: String::new(),
        seccomp_profile_path: String::new(),
    }
}

fn capabilities(from: &Capabilities) -> v1::Capability {
    v1::Capability {
        add_capabilities: from.add.clone(),
        drop_capabilities: from.drop.clone(),
        add_ambient_capabilities: from.add_ambient.clone(),
    }
}

fn id(id: Option<i64>) -> Option<v1::Int64Value> {
    id.map(|value| v1::Int64Value { value })
}

fn policy(policy: SupplementalGroupsPolicy) -> i32 {
    match policy {
        SupplementalGroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge.into(),
        SupplementalGroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict.into(),
    }
}

fn selinux(from: &SeLinuxLabel) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: from.user.clone(),
        role: from.role.clone(),
        r#type: from.kind.clone(),
        level: from.level.clone(),
    }
}

fn profile(from: &MandatoryProfile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, reference) = match from {
        MandatoryProfile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        MandatoryProfile::Unconfined => (ProfileType::Unconfined, String::new()),
        MandatoryProfile::Localhost(reference) => (ProfileType::Localhost, reference.clone()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: reference }
}
