//! What a client asks a container to be.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::StringMap;
use crate::id::PodId;
use crate::resources::Resources;
use crate::security::{ContainerSecurity, IdMapping};
use crate::signal::Signal;

/// Who a container is: two with the same identity are the same container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerIdentity {
    /// Its pod sandbox.
    pub pod: PodId,
    /// Its name in the pod.
    pub name: String,
    /// How many containers of this name came before it in the pod.
    pub attempt: u32,
}

/// A container as it was asked for. Written to the store and echoed in its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name in the pod.
    pub name: String,
    /// How many containers of this name came before it in the pod.
    pub attempt: u32,
    /// Must be local already.
    pub image: ImageSpec,
    /// Replaces the image's entry point, and drops its arguments.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Empty: the image's, then `/`.
    pub working_dir: String,
    /// Over the image's, in order. Values are bytes: CRI allows any.
    pub envs: Vec<(String, Vec<u8>)>,
    /// In the order they were asked for.
    pub mounts: Vec<Mount>,
    /// Host devices.
    pub devices: Vec<Device>,
    /// Fully qualified CDI names, `vendor.com/class=name`.
    pub cdi_devices: Vec<String>,
    /// Returned as they came.
    pub labels: StringMap,
    /// Returned as they came.
    pub annotations: StringMap,
    /// Relative to the pod's log directory; empty: the log is discarded.
    pub log_path: PathBuf,
    /// Where CreateContainer names another log directory than the pod's.
    #[serde(default)]
    pub log_directory: Option<PathBuf>,
    /// Whether standard input stays open for attached clients.
    pub stdin: bool,
    /// Whether it is closed when the first of them leaves.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// What it may use.
    pub resources: Resources,
    /// What it may do.
    pub security: ContainerSecurity,
    /// Over the image's; `None`: the image's, then SIGTERM.
    pub stop_signal: Option<Signal>,
}

/// How a request names an image (CRI ImageSpec). Echoed as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// A reference, a digest or an id.
    pub image: String,
    /// Kept and returned.
    pub annotations: StringMap,
    /// What the user wrote in the pod.
    pub user_specified_image: String,
    /// The handler whose snapshots and platform are meant; empty: the default.
    pub runtime_handler: String,
    /// The digest of an image volume's image.
    pub image_ref: String,
}

/// A mount of the container's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, not `/`.
    pub container_path: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// Read-only, the top mount alone unless `recursive_read_only`.
    pub readonly: bool,
    /// Read-only with everything below; only with `readonly` and private propagation.
    pub recursive_read_only: bool,
    /// Relabelled for SELinux where the host has it.
    pub selinux_relabel: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
    /// An id-mapped mount, where not empty.
    pub uid_mappings: Vec<IdMapping>,
    /// As `uid_mappings`.
    pub gid_mappings: Vec<IdMapping>,
    /// Of `noexec`, `nodev`, `nosuid`.
    pub options: Vec<String>,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host's.
    HostPath(PathBuf),
    /// An image's root file system, or a path in it (empty: all of it); always read-only.
    Image {
        /// The image, which must be local.
        image: ImageSpec,
        /// Relative to the image's root.
        sub_path: PathBuf,
    },
}

/// mount_namespaces(7), shared subtrees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `rprivate`
    #[default]
    Private,
    /// `rslave`
    HostToContainer,
    /// `rshared`
    Bidirectional,
}

/// A device of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where the container sees it.
    pub container_path: PathBuf,
    /// A device, or a directory of devices.
    pub host_path: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}
