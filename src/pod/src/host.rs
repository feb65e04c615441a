//! What this node has, for specifications: gathered once at start.

use std::collections::BTreeSet;
use std::path::Path;

use kernel::SysError;

use crate::spec::{CgroupVersion, HostFacts};

/// Looks at the node.
///
/// # Errors
/// When the kernel does not tell what this process may do.
pub(crate) fn facts() -> Result<HostFacts, SysError> {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let version = if unified { CgroupVersion::V2 } else { CgroupVersion::V1 };
    let swap = if unified {
        Path::new("/sys/fs/cgroup/system.slice/memory.swap.max").exists() || Path::new("/proc/swaps").exists()
    } else {
        Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
    };
    HostFacts::gather(version, swap, BTreeSet::new(), false)
}
