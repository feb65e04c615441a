//! What this node has: gathered once at start, since it does not change while the service lives.

use std::sync::Arc;

use kernel::SysError;
use kernel::cgroup::Hierarchy;

use crate::spec::{CgroupVersion, HostFacts};

/// The cgroups that are mounted, and what specifications must know.
///
/// # Errors
/// When no cgroups are mounted, or the kernel does not tell what this process may do.
pub(crate) fn facts() -> Result<(Arc<Hierarchy>, HostFacts), SysError> {
    let hierarchy = Hierarchy::detect()?;
    let version = if hierarchy.is_v2() { CgroupVersion::V2 } else { CgroupVersion::V1 };
    let facts = HostFacts::gather(version, hierarchy.limits_swap(), hierarchy.hugepage_sizes(), true)?;
    Ok((Arc::new(hierarchy), facts))
}
