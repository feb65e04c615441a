//! What this node has, for specifications: gathered once at start.

use kernel::SysError;
use kernel::cgroup::Hierarchy;

use crate::spec::{CgroupVersion, HostFacts};

/// Looks at the node.
///
/// # Errors
/// When no cgroups are mounted, or the kernel does not tell what this process may do.
pub(crate) fn facts() -> Result<HostFacts, SysError> {
    let hierarchy = Hierarchy::detect()?;
    let version = if hierarchy.is_v2() { CgroupVersion::V2 } else { CgroupVersion::V1 };
    HostFacts::gather(version, hierarchy.limits_swap(), hierarchy.hugepage_sizes(), true)
}
