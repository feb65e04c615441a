//! A whole input for tests, of which each changes what it is about.

use std::path::PathBuf;

use model::{
    ContainerConfig, ContainerId, ContainerSecurity, ImageSpec, Mount, MountSource, NamespaceMode, PodConfig,
    PodIdentity, PodSecurity, Propagation, Resources, StringMap,
};

use crate::defined_volumes::DefinedVolume;

use super::{
    AppArmor, CgroupVersion, Defaults, HandlerCan, HostFacts, ImageDefaults, Injection, NamespacePaths,
    PodFiles, PreparedDevice, PreparedMount, ResolvedUser, SpecInput,
};

/// Owns what [`SpecInput`] borrows.
pub(crate) struct Fixture {
    pub(crate) pod_id: model::PodId,
    pub(crate) pod: PodConfig,
    pub(crate) container_id: ContainerId,
    pub(crate) container: ContainerConfig,
    pub(crate) image: ImageDefaults,
    pub(crate) user: ResolvedUser,
    pub(crate) rootfs: PathBuf,
    pub(crate) files: PodFiles,
    pub(crate) namespaces: NamespacePaths,
    pub(crate) mounts: Vec<PreparedMount>,
    pub(crate) volumes: Vec<DefinedVolume>,
    pub(crate) devices: Vec<PreparedDevice>,
    pub(crate) injection: Injection,
    pub(crate) seccomp_localhost: Option<Vec<u8>>,
    pub(crate) cgroups_path: String,
    pub(crate) host: HostFacts,
    pub(crate) cgroup_writable: bool,
    pub(crate) defaults: Defaults,
}

/// A container's id made of one digit.
pub(crate) fn id(digit: u8) -> ContainerId {
    digit.to_string().repeat(64).parse().unwrap()
}

/// A plain bind mount.
pub(crate) fn bind(container_path: &str, host_path: &str) -> Mount {
    Mount {
        container_path: container_path.into(),
        source: MountSource::HostPath(host_path.into()),
        readonly: false,
        recursive_read_only: false,
        selinux_relabel: false,
        propagation: Propagation::Private,
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
        options: Vec::new(),
    }
}

impl Fixture {
    pub(crate) fn input(&self) -> SpecInput<'_> {
        SpecInput {
            pod_id: &self.pod_id,
            pod: &self.pod,
            container_id: &self.container_id,
            container: &self.container,
            image: &self.image,
            user: &self.user,
            rootfs: &self.rootfs,
            hostname: &self.pod.hostname,
            files: &self.files,
            namespaces: &self.namespaces,
            mounts: &self.mounts,
            volumes: &self.volumes,
            devices: &self.devices,
            injection: &self.injection,
            seccomp_localhost: self.seccomp_localhost.as_deref(),
            cgroups_path: &self.cgroups_path,
            host: &self.host,
            handler: HandlerCan { recursive_read_only: true, id_mapped_mounts: true },
            all_devices: self.container.security.privileged,
            cgroup_writable: self.cgroup_writable,
            defaults: &self.defaults,
        }
    }

    /// Adds a mount whose source is its host path (`/host` for an image).
    pub(crate) fn mount(&mut self, mount: Mount) {
        let source = match &mount.source {
            MountSource::HostPath(path) => path.clone(),
            MountSource::Image { .. } => "/host".into(),
        };
        self.mounts.push(PreparedMount { source, missing: false, kept: Vec::new() });
        self.container.mounts.push(mount);
    }
}

impl Default for Fixture {
    fn default() -> Self {
        let mut pod_security = PodSecurity::default();
        pod_security.namespaces.pid = NamespaceMode::Container;
        Self {
            pod_id: "1".repeat(64).parse().unwrap(),
            pod: PodConfig {
                identity: PodIdentity {
                    namespace: "default".into(),
                    name: "web-0".into(),
                    uid: "uid-1".into(),
                    attempt: 0,
                },
                hostname: "web".into(),
                log_directory: None,
                dns: None,
                port_mappings: Vec::new(),
                labels: StringMap::new(),
                annotations: StringMap::new(),
                cgroup_parent: "/pods".into(),
                sysctls: StringMap::new(),
                overhead: None,
                resources: None,
                security: pod_security,
                runtime_handler: String::new(),
            },
            container_id: id(2),
            container: ContainerConfig {
                name: "app".into(),
                attempt: 0,
                image: ImageSpec { image: "registry.test/app:1".into(), ..ImageSpec::default() },
                command: Vec::new(),
                args: Vec::new(),
                working_dir: String::new(),
                envs: Vec::new(),
                mounts: Vec::new(),
                devices: Vec::new(),
                cdi_devices: Vec::new(),
                labels: StringMap::new(),
                annotations: StringMap::new(),
                log_path: PathBuf::new(),
                log_directory: None,
                stdin: false,
                stdin_once: false,
                tty: false,
                resources: Resources::default(),
                security: ContainerSecurity::default(),
                stop_signal: None,
            },
            image: ImageDefaults { entrypoint: vec!["/bin/app".into()], ..ImageDefaults::default() },
            user: ResolvedUser { uid: 0, gid: 0, additional_gids: vec![0] },
            rootfs: "/bundle/rootfs".into(),
            files: PodFiles {
                resolv_conf: Some("/p/resolv.conf".into()),
                hostname: Some("/p/hostname".into()),
                hosts: Some("/p/hosts".into()),
                shm: Some("/p/shm".into()),
            },
            namespaces: NamespacePaths {
                user: Some("/n/user".into()),
                network: Some("/n/net".into()),
                ipc: Some("/n/ipc".into()),
                uts: Some("/n/uts".into()),
                pid: Some("/n/pid".into()),
                target_pid: Some("/n/target".into()),
            },
            mounts: Vec::new(),
            volumes: Vec::new(),
            devices: Vec::new(),
            injection: Injection::default(),
            seccomp_localhost: None,
            cgroups_path: format!("/pods/{}", "2".repeat(64)),
            host: HostFacts {
                cgroup: CgroupVersion::V1,
                swap_controller: true,
                hugepage_sizes: ["2MB".to_owned()].into(),
                apparmor: AppArmor::default(),
                selinux: false,
                architecture: "x86_64",
                capabilities: kernel::caps::NAMES
                    .into_iter()
                    .filter(|name| *name != "SYS_RESOURCE")
                    .collect(),
                oom_score_adj_min: -1000,
                rlimits_max: Default::default(),
                mqueue: true,
                recursive_read_only: true,
            },
            cgroup_writable: false,
            defaults: Defaults::default(),
        }
    }
}
