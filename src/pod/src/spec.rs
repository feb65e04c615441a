//! From what a client asked for to an OCI runtime specification.
//!
//! [`build`] is pure: everything that is read from the host or from the image lies in [`SpecInput`] before. What has
//! to touch the host comes first and apart: [`resolve_user`] reads the image's passwd and group files, [`prepare`]
//! makes and resolves mount sources and devices, [`HostFacts::gather`] looks at the node once. One file per concern;
//! every value that cannot be served is an error that names its field.

use std::path::{Path, PathBuf};

use model::{ContainerConfig, ContainerId, PodConfig, PodId};

use crate::defined_volumes::DefinedVolume;

mod annotations;
mod capabilities;
mod cdi;
pub mod cgroups_path;
mod devices;
mod error;
mod exec;
mod host;
pub mod id_maps;
mod mounts;
mod namespaces;
pub mod oci;
pub mod prepare;
mod process;
pub mod relabel;
mod resources;
pub(crate) mod seccomp;
mod security;
mod user;

pub(crate) use annotations::pod_annotations;
pub use cdi::Injection;
pub use error::SpecError;
pub use exec::exec_process;
pub use host::{APPARMOR_DEFAULT, AppArmor, CgroupVersion, HostFacts};
pub use oci::Spec;
pub use prepare::{PreparedDevice, PreparedMount};
pub use resources::limits;
pub(crate) use resources::with_limits;
pub use seccomp::{SeccompDefault, read_localhost};
pub use user::{ResolvedUser, resolve_user};

/// Everything that a container's specification depends on.
#[derive(Clone, Copy, Debug)]
pub struct SpecInput<'a> {
    /// The pod's id.
    pub pod_id: &'a PodId,
    /// The pod as it was asked for.
    pub pod: &'a PodConfig,
    /// The container's id.
    pub container_id: &'a ContainerId,
    /// The container as it was asked for.
    pub container: &'a ContainerConfig,
    /// What the image says about processes.
    pub image: &'a ImageDefaults,
    /// From [`resolve_user`].
    pub user: &'a ResolvedUser,
    /// The container's root file system, absolute.
    pub rootfs: &'a Path,
    /// What the pod's hostname is; empty leaves HOSTNAME unset.
    pub hostname: &'a str,
    /// The pod's own files.
    pub files: &'a PodFiles,
    /// The pod's namespaces.
    pub namespaces: &'a NamespacePaths,
    /// From [`prepare::mounts`]: one for each of the container's mounts, in their order.
    pub mounts: &'a [PreparedMount],
    /// The volumes that its image asks for.
    pub volumes: &'a [DefinedVolume],
    /// From [`prepare::devices`].
    pub devices: &'a [PreparedDevice],
    /// What its CDI devices change.
    pub injection: &'a Injection,
    /// The bytes of the Localhost seccomp profile, from [`read_localhost`]; `None` for every other profile.
    pub seccomp_localhost: Option<&'a [u8]>,
    /// From [`cgroups_path::container`].
    pub cgroups_path: &'a str,
    /// What the node has and may.
    pub host: &'a HostFacts,
    /// What the OCI runtime can do.
    pub handler: HandlerCan,
    /// Whether the device controller allows it every device.
    pub all_devices: bool,
    /// Whether an unprivileged container's /sys/fs/cgroup is writable.
    pub cgroup_writable: bool,
    /// What the node's configuration says.
    pub defaults: &'a Defaults,
}

/// What an OCI runtime can do that others cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlerCan {
    /// Mounts recursively read-only.
    pub recursive_read_only: bool,
    /// Makes id-mapped mounts.
    pub id_mapped_mounts: bool,
}

/// What an image's configuration says about its processes (image-spec `config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `user`, `uid`, `user:group`, …
    pub user: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// What runs.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
}

/// The files that a pod's containers share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFiles {
    /// Mounted on /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
    /// Mounted on /etc/hostname.
    pub hostname: Option<PathBuf>,
    /// Mounted on /etc/hosts, unless the container has a mount of its own there, as a kubelet's has.
    pub hosts: Option<PathBuf>,
    /// The pod's shared memory, mounted on /dev/shm; not used with the host's IPC namespace.
    pub shm: Option<PathBuf>,
}

/// Where the pod's namespaces are pinned. Those of the host's are not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePaths {
    /// The user namespace that owns the others; `None`: the host's.
    pub user: Option<PathBuf>,
    /// The network namespace.
    pub network: Option<PathBuf>,
    /// The IPC namespace.
    pub ipc: Option<PathBuf>,
    /// The UTS namespace; `None`: the host's.
    pub uts: Option<PathBuf>,
    /// The PID namespace shared by the pod's containers, where it has one.
    pub pid: Option<PathBuf>,
    /// The PID namespace of the container that a TARGET mode names.
    pub target_pid: Option<PathBuf>,
}

/// What the node's configuration says for every container of a runtime handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Without `CAP_`; what a container has before `add` and `drop`.
    pub capabilities: Vec<String>,
    /// What an unset seccomp profile means.
    pub seccomp_unset: SeccompDefault,
    /// Clamped by [`HostFacts::clamp_rlimit`] when they are written.
    pub rlimits: Vec<oci::Rlimit>,
    /// Tasks a container may have; `None`: unlimited.
    pub pids_limit: Option<u64>,
    /// Directories of the service's own: a mount that holds one of them receives unmounts even if it is private,
    /// so that no container keeps another's root file system busy.
    pub own_directories: Vec<PathBuf>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            capabilities: capabilities::DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
            seccomp_unset: SeccompDefault::Unconfined,
            rlimits: Vec::new(),
            pids_limit: None,
            own_directories: Vec::new(),
        }
    }
}

/// What can be refused from a sandbox's request alone, before anything is made for it.
///
/// # Errors
/// The first field that asks for what the node does not give.
pub fn check_pod(pod: &PodConfig, host: &HostFacts) -> Result<(), SpecError> {
    security::check_selinux(pod.security.selinux.as_ref(), host)
}

/// What can be refused from the request alone, before anything is made for it.
///
/// # Errors
/// The first field that asks for what the sandbox, the node or the OCI runtime does not give.
pub fn check_request(
    pod: &PodConfig,
    container: &ContainerConfig,
    host: &HostFacts,
    handler: HandlerCan,
) -> Result<(), SpecError> {
    namespaces::check(&pod.security.namespaces, &container.security.namespaces)?;
    if !container.security.privileged {
        security::check_selinux(container.security.selinux.as_ref(), host)?;
    }
    let asked = container.mounts.iter().enumerate();
    asked
        .into_iter()
        .try_for_each(|(n, mount)| mounts::check(pod, &format!("mounts[{n}]"), mount, host, handler))
}

/// The SELinux label of all that is mounted for a container, its root filesystem included; `None` where it has none.
///
/// # Errors
/// A part of the label that was asked for is none.
pub fn mount_label(
    pod_id: &PodId,
    pod: &PodConfig,
    container: &ContainerConfig,
    host: &HostFacts,
) -> Result<Option<String>, SpecError> {
    Ok(security::labels(pod_id, pod, container, host)?.map(|labels| labels.mount))
}

/// The specification of a container.
///
/// # Errors
/// The first field of the request that cannot be served as it is.
pub fn build(input: &SpecInput<'_>) -> Result<oci::Spec, SpecError> {
    security::check(input)?;
    let capabilities = capabilities::sets(input)?;
    let seccomp = seccomp::filter(input, &capabilities)?;
    user::check_mapped(input)?;
    let process = process::process(input, capabilities)?;
    let (mounts, rootfs_propagation) = mounts::mounts(input)?;
    let (masked_paths, readonly_paths) = security::paths(&input.container.security);
    let (devices, device_rules) = devices::devices(input)?;
    let mut spec = oci::Spec {
        oci_version: String::new(),
        process,
        root: oci::Root { path: input.rootfs.to_owned(), readonly: input.container.security.readonly_rootfs },
        mounts,
        hooks: None,
        annotations: annotations::annotations(input),
        linux: oci::Linux {
            resources: oci::Resources { devices: device_rules, ..resources::resources(input)? },
            cgroups_path: input.cgroups_path.to_owned(),
            namespaces: namespaces::namespaces(input)?,
            devices,
            seccomp,
            rootfs_propagation,
            masked_paths,
            readonly_paths,
            mount_label: input.labels()?.map(|labels| labels.mount),
        },
    };
    input.injection.apply(&mut spec);
    spec.oci_version = spec.lowest_version().to_owned();
    Ok(spec)
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod runtime_tests;
#[cfg(test)]
mod tests;
