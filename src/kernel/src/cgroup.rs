//! cgroup v1 and v2: which are mounted, and groups made, limited, read, killed and removed.

use std::collections::BTreeMap;

/// What a cgroup may use. `None` and empty: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, v1 scale (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs as a list.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as a list.
    pub cpuset_mems: Option<String>,
    /// Memory, bytes; -1 is unlimited.
    pub memory: Option<i64>,
    /// Memory and swap together, bytes; -1 is unlimited.
    pub memory_and_swap: Option<i64>,
    /// Tasks; -1 is unlimited.
    pub pids: Option<i64>,
    /// Bytes of huge pages per page size (`2MB`).
    pub hugepages: Vec<(String, u64)>,
    /// v2 files by name, written as they are after everything above.
    pub unified: BTreeMap<String, String>,
}

// Signatures that the `spec` branch fills.
use crate::SysError;
/// The mounted hierarchies.
pub struct Hierarchy;
/// One group.
pub struct Group;
impl Hierarchy {
    /// Looks at the host.
    pub fn detect() -> Result<Self, SysError> { Ok(Self) }
    /// A group by path.
    pub fn group(&self, _p: &str) -> Group { Group }
}
impl Group {
    /// Makes it.
    pub fn create(&self) -> Result<(), SysError> { Ok(()) }
    /// Those of its path that do not exist.
    pub fn missing(&self) -> Vec<String> { vec![] }
    /// Removes it.
    pub fn remove_if_empty(&self) -> Result<(), SysError> { Ok(()) }
    /// Kills all in it.
    pub fn kill(&self) -> Result<(), SysError> { Ok(()) }
    /// Its directory in the hierarchy of a controller.
    pub fn directory(&self, _c: &str) -> Option<&std::path::Path> { None }
    /// Limits it.
    pub fn apply(&self, _l: &Limits) -> Result<(), SysError> { Ok(()) }
}
