//! SELinux labels on what a container mounts: those volumes that ask for it, and the pod's own files.

use std::path::Path;

use kernel::label;
use model::{ContainerConfig, MountSource};

use super::{PodFiles, PreparedMount, SpecError};

/// Gives the sources of mounts that ask for it the container's label, and the pod's own files. Only for a node with
/// SELinux, which `label` comes from.
///
/// # Errors
/// The first that cannot be relabelled.
pub fn relabel(
    container: &ContainerConfig,
    prepared: &[PreparedMount],
    files: &PodFiles,
    label: &str,
) -> Result<(), SpecError> {
    let set = |field: String, path: &Path| {
        label::set_on_tree(path, label::SELINUX, label.as_bytes())
            .map(drop)
            .map_err(|source| SpecError::System { field, source })
    };
    for path in [&files.resolv_conf, &files.hostname, &files.hosts, &files.shm].into_iter().flatten() {
        set("linux.security_context.selinux_options".to_owned(), path)?;
    }
    for (n, (asked, mount)) in container.mounts.iter().zip(prepared).enumerate() {
        // An image volume is read-only, and its layers are many pods'.
        if asked.selinux_relabel && matches!(asked.source, MountSource::HostPath(_)) {
            set(format!("mounts[{n}].selinux_relabel"), &mount.source)?;
        }
    }
    Ok(())
}
