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
