//! Which cgroups a pod and its containers have, in each form that somebody needs.

use std::path::{Path, PathBuf};

use kernel::cgroup::{Group, Hierarchy};
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

/// The group that holds a container's processes and bounds them: its own, or the one that crun makes below a scope.
///
/// crun has systemd hand the scope over (`Delegate=`) and moves the container one level down, where systemd writes
/// nothing. The limits are there alone in some versions (1.8), in both groups in others. runc makes no such group.
pub(crate) fn bounding(hierarchy: &Hierarchy, cgroup: &str) -> Group {
    let below = hierarchy.group(Path::new(cgroup).join("container"));
    let delegated = hierarchy.is_v2() && cgroup.ends_with(".scope") && below.exists();
    if delegated { below } else { hierarchy.group(cgroup) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_bounded_where_its_runtime_put_it() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["with.scope/container", "without.scope", "plain/container"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let root = dir.path().to_owned();
        let v1 = Hierarchy::V1 { controllers: [("memory".to_owned(), root.clone())].into(), unified: None };
        let v2 = Hierarchy::V2 { root };
        for (hierarchy, cgroup, expect) in [
            (&v2, "/with.scope", "/with.scope/container"),
            (&v2, "/without.scope", "/without.scope"),
            // A directory of the container's own making.
            (&v2, "/plain", "/plain"),
            (&v1, "/with.scope", "/with.scope"),
        ] {
            assert_eq!(bounding(hierarchy, cgroup).path(), Path::new(expect));
        }
    }
}
