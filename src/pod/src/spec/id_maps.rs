//! Whether id-mapped mounts can be made of what a request names.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use kernel::namespace::{self, IdMaps};
use model::{ContainerConfig, MountSource};

use super::{PreparedMount, SpecError};
use crate::user_namespace::id_ranges;

/// That the file systems of id-mapped mounts have such mounts, with all that is mounted below them.
///
/// # Errors
/// The first that does not, or the kernel takes the mappings for none.
pub fn check(container: &ContainerConfig, prepared: &[PreparedMount]) -> Result<(), SpecError> {
    let mut known: Option<(&model::Mount, OwnedFd)> = None;
    for (n, (asked, mount)) in container.mounts.iter().zip(prepared).enumerate() {
        let host_path = matches!(asked.source, MountSource::HostPath(_));
        if !host_path || asked.uid_mappings.is_empty() {
            continue;
        }
        let failed = |source| SpecError::System { field: format!("mounts[{n}].uidMappings"), source };
        let same = |(of, _): &(&model::Mount, OwnedFd)| {
            of.uid_mappings == asked.uid_mappings && of.gid_mappings == asked.gid_mappings
        };
        // A kubelet asks for the same ids each time.
        let (_, user) = match known.take().filter(same) {
            Some(known) => known,
            None => {
                let (users, groups) = (id_ranges(&asked.uid_mappings), id_ranges(&asked.gid_mappings));
                let maps = IdMaps { users: &users, groups: &groups };
                (asked, namespace::open_user(maps).map_err(failed)?)
            }
        };
        // What is missing will be made on the file system of what is there.
        let there = mount.source.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        kernel::mount::check_id_mapped(there, user.as_fd()).map_err(failed)?;
        known = Some((asked, user));
    }
    Ok(())
}
