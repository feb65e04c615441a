//! Which cgroups a pod and its containers have, in each form that somebody needs.

use std::path::PathBuf;

use model::{ContainerId, PodConfig, PodId};

use crate::config::{CgroupDriver, PodsConfig};
use crate::spec::{SpecError, cgroups_path};

/// The parent of a pod's containers' cgroups, as the driver writes it: the request's, or one of the pod's own
/// below the node's default.
pub(crate) fn parent(pod: &PodId, config: &PodConfig, node: &PodsConfig) -> String {
    if !config.cgroup_parent.is_empty() {
        return config.cgroup_parent.clone();
    }
    match node.cgroup_driver {
        CgroupDriver::Cgroupfs => format!("{}/{pod}", node.cgroup_parent.trim_end_matches('/')),
        // systemd nests a slice below those that its name's parts before each `-` name.
        CgroupDriver::Systemd => {
            let above = node.cgroup_parent.trim_matches('/').trim_end_matches(".slice").replace('/', "-");
            format!("{above}-{pod}.slice")
        }
    }
}

/// A pod's cgroup, as /proc/self/cgroup writes it.
///
/// # Errors
/// A parent that is not of the driver's form.
pub(crate) fn pod_cgroup(parent: &str, driver: CgroupDriver) -> Result<String, SpecError> {
    cgroups_path::directory(driver, parent).map(text)
}

/// A container's cgroup, as /proc/self/cgroup writes it.
///
/// # Errors
/// A parent that is not of the driver's form.
pub(crate) fn container_cgroup(
    parent: &str,
    container: &ContainerId,
    driver: CgroupDriver,
) -> Result<String, SpecError> {
    cgroups_path::container_directory(driver, parent, container).map(text)
}

fn text(path: PathBuf) -> String {
    // Of a request's string, which is UTF-8.
    path.to_string_lossy().into_owned()
}

/// The directory whose files tell of a container's memory, for its shim.
pub(crate) fn memory_dir(cgroup: &str) -> Option<PathBuf> {
    kernel::cgroup::Hierarchy::detect().ok()?.group(cgroup).directory("memory")
}
