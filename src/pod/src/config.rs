//! How this node runs pods: what the daemon's configuration says to this room.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::{ContainerId, ImageId, PodId};

use crate::error::PodError;
pub use crate::spec::cgroups_path::CgroupDriver;
use crate::spec::{self, Defaults, SeccompDefault};

/// How this node runs pods. Validated by the daemon before it gets here.
#[derive(Clone, Debug)]
pub struct PodsConfig {
    /// What survives a reboot: `/var/lib/gantline`.
    pub root: PathBuf,
    /// What does not: `/run/gantline`.
    pub state: PathBuf,
    /// Where network namespaces are pinned: `/run/netns`.
    pub netns_dir: PathBuf,
    /// OCI runtimes by the name that RuntimeClass handlers have.
    pub handlers: BTreeMap<String, OciHandler>,
    /// The one that an empty handler means.
    pub default_handler: String,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Below which pods without a cgroup_parent live, a cgroupfs path: `/gantline`.
    pub cgroup_parent: String,
    /// One CRI log line before it is split, bytes.
    pub log_line_bytes_max: usize,
    /// A program that runs [`crate::serve_host_paths`] on its standard streams, and its arguments: paths that may lie on
    /// a file system that does not answer are looked at there. `None`: by this process, which may hang.
    pub path_helper: Option<(PathBuf, Vec<String>)>,
    /// What a container may use where the request does not say.
    pub defaults: ContainerDefaults,
}

/// What a container gets where the request does not say.
#[derive(Clone, Debug)]
pub struct ContainerDefaults {
    /// Capability names without `CAP_`.
    pub capabilities: Vec<String>,
    /// Whether a container without a seccomp profile gets `RuntimeDefault` instead of none.
    pub seccomp_when_unset: bool,
    /// A file to use as `RuntimeDefault` instead of the built-in profile.
    pub seccomp_profile: Option<PathBuf>,
    /// Whether ports below 1024 need no capability in a pod's network.
    pub unprivileged_ports: bool,
    /// Whether ping needs no capability in a pod's network.
    pub unprivileged_icmp: bool,
    /// Resource limits of processes: name (`RLIMIT_NOFILE`), soft, hard.
    pub rlimits: Vec<(String, u64, u64)>,
    /// Mount sources that are not made where they do not exist: the container is refused.
    pub absent_mount_sources_to_reject: Vec<PathBuf>,
    /// Whether the volumes that an image asks for are made; else their paths are of the root file system.
    pub image_defined_volumes: bool,
    /// Tasks that a container may have; `None`: unlimited.
    pub pids_limit: Option<u64>,
    /// Whether a container's devices belong to the user and group of its security context.
    pub device_ownership_from_security_context: bool,
    /// Where CDI specifications lie; a later directory is before an earlier one.
    pub cdi_spec_dirs: Vec<PathBuf>,
}

/// An OCI runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OciHandler {
    /// Its executable.
    pub binary: PathBuf,
    /// Whether it and the kernel mount recursively read-only, as its own `features` command says.
    pub recursive_read_only: bool,
    /// Whether it and the kernel make id-mapped mounts, as above.
    pub id_mapped_mounts: bool,
    /// Whether it and the kernel run pods in user namespaces of their own, as above.
    pub user_namespaces: bool,
    /// What of the host's devices a privileged container gets.
    pub privileged_devices: PrivilegedDevices,
    /// Whether an unprivileged container's /sys/fs/cgroup is writable.
    pub cgroup_writable: bool,
    /// Who starts the processes of execs in its containers.
    pub exec: ExecBy,
}

/// What of the host's devices a privileged container gets, beside those that it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivilegedDevices {
    /// All of them.
    #[default]
    All,
    /// None, but it may make and use nodes of any.
    Allowed,
    /// None.
    None,
}

/// Who starts the processes of execs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecBy {
    /// The OCI runtime's `exec`: the only way into containers that are no namespaces of this kernel's.
    #[default]
    Runtime,
    /// The pod's shim, as that runtime would; the runtime where the shim cannot.
    Shim(Kind),
}

/// A kind of OCI runtime, where they differ in what a container's processes find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names its session keyrings `_ses.<id>`, and answers ENOSYS for system calls that a profile is too old to know.
    Runc,
    /// Names its session keyrings by the container's id.
    Crun,
    /// Any other: a new session keyring for each exec.
    Other,
}

impl Kind {
    /// By the name of its binary.
    pub fn of(binary: &Path) -> Self {
        match binary.file_name().and_then(|name| name.to_str()) {
            Some("runc") => Self::Runc,
            Some("crun") => Self::Crun,
            _ => Self::Other,
        }
    }
}

impl PodsConfig {
    /// The same in the words of the specification's builder.
    pub(crate) fn spec_defaults(&self) -> Defaults {
        let defaults = &self.defaults;
        let rlimit = |(kind, soft, hard): &(String, u64, u64)| spec::oci::Rlimit {
            kind: kind.clone(),
            soft: *soft,
            hard: *hard,
        };
        Defaults {
            capabilities: defaults.capabilities.clone(),
            seccomp_unset: if defaults.seccomp_when_unset {
                SeccompDefault::RuntimeDefault
            } else {
                SeccompDefault::Unconfined
            },
            rlimits: defaults.rlimits.iter().map(rlimit).collect(),
            pids_limit: defaults.pids_limit,
            own_directories: vec![self.root.clone(), self.state.clone()],
        }
    }

    /// A handler by the name that a request gives; an empty name is the default.
    pub(crate) fn handler(&self, name: &str) -> Result<(String, &OciHandler), PodError> {
        let name = if name.is_empty() { &self.default_handler } else { name };
        match self.handlers.get(name) {
            Some(handler) => Ok((name.to_owned(), handler)),
            None => Err(PodError::UnknownHandler {
                name: name.to_owned(),
                known: self.handlers.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    pub(crate) fn pod_dir(&self, pod: &PodId) -> PathBuf {
        self.state.join("pods").join(pod)
    }

    pub(crate) fn bundle(&self, container: &ContainerId) -> PathBuf {
        self.state.join("containers").join(container)
    }

    pub(crate) fn runtime_root(&self, handler: &str) -> PathBuf {
        self.state.join("runtimes").join(handler)
    }

    pub(crate) fn netns(&self, pod: &PodId) -> PathBuf {
        // 32 digits are unique enough, and file names in listings stay short.
        self.netns_dir.join(format!("gantline-{}", &pod.as_str()[..32]))
    }
}

/// The files and pins of one pod below its directory.
pub(crate) struct PodPaths(PathBuf);

impl PodPaths {
    pub(crate) fn new(config: &PodsConfig, pod: &PodId) -> Self {
        Self(config.pod_dir(pod))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    pub(crate) fn user(&self) -> PathBuf {
        self.0.join("user")
    }

    pub(crate) fn ipc(&self) -> PathBuf {
        self.0.join("ipc")
    }

    pub(crate) fn uts(&self) -> PathBuf {
        self.0.join("uts")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// Where an image is mounted for the pod's containers.
    pub(crate) fn image_volume(&self, image: &ImageId) -> PathBuf {
        self.0.join("images").join(image.0.hex())
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    pub(crate) fn hostname(&self) -> PathBuf {
        self.0.join("hostname")
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }
}
