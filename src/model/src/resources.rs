//! What a container or pod may use, in the units of CRI's LinuxContainerResources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits and weights. Zero or empty means "not set": unlimited on creation, unchanged on update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota per period, microseconds; -1 is unlimited.
    pub cpu_quota: i64,
    /// Relative weight, cgroup v1 scale (2 to 262144).
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit: i64,
    /// Memory and swap together, bytes; -1 is unlimited swap.
    pub memory_swap_limit: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs as a list, `0-2,7`.
    pub cpuset_cpus: String,
    /// Memory nodes as a list.
    pub cpuset_mems: String,
    /// Limits per huge page size.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files by name, written as they are; they win over everything above.
    pub unified: BTreeMap<String, String>,
}

/// A limit on one size of huge page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, `64KB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}
