//! Limits as writes to files: which, in which order, and back again when one is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::{Group, Hierarchy, read_text, write};
use crate::SysError;

/// v1 writes "unlimited" as the greatest number of pages below 2^63 bytes; page sizes differ.
const V1_UNLIMITED_FROM: i64 = i64::MAX - (1 << 20);
/// The kernel's CFS period, microseconds.
const CPU_PERIOD_DEFAULT: u64 = 100_000;

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

/// One value for one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The file.
    pub file: PathBuf,
    /// What is written to it.
    pub value: String,
}

pub(super) fn apply(group: &Group, limits: &Limits) -> Result<(), SysError> {
    let back = undo(group, limits)?;
    let outcome = plan(group, limits)?.iter().try_for_each(|wanted| write(&wanted.file, &wanted.value));
    if outcome.is_err() {
        // What cannot be put back was not ours to keep: somebody else has changed the group meanwhile, and the first
        // error tells.
        let _ = put_back(&back);
    }
    outcome
}

/// What puts back everything that [`apply`] would change, in its order: the reverse, in which each step back is legal
/// as the step forth was. A step that was never made is put back to what it is.
pub(super) fn undo(group: &Group, limits: &Limits) -> Result<Vec<Write>, SysError> {
    let mut back = Vec::new();
    for wanted in plan(group, limits)? {
        let before = read_text(&wanted.file)?;
        back.extend(lines_back(&wanted, before.trim()));
    }
    back.reverse();
    Ok(back)
}

/// Writes what [`undo`] has told, all of it whatever fails; files that are gone need nothing.
///
/// # Errors
/// The first file that refused its value.
pub fn put_back(writes: &[Write]) -> Result<(), SysError> {
    let written = writes.iter().map(|back| write(&back.file, &back.value));
    written.filter(|outcome| !outcome.as_ref().is_err_and(SysError::is_gone)).fold(Ok(()), Result::and)
}

/// The writes, last first, that bring a file back to `before`. Files of one line a device take one line at a time,
/// and a device that had none is told that nothing limits it.
fn lines_back(wanted: &Write, before: &str) -> Vec<Write> {
    let to = |value: &str| Write { file: wanted.file.clone(), value: value.to_owned() };
    if !wanted.file.ends_with("io.max") {
        return vec![to(before)];
    }
    let device = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let added = device(&wanted.value);
    let mut back: Vec<Write> = before.lines().map(to).collect();
    if !before.lines().any(|line| device(line) == added) {
        back.push(to(&format!("{added} rbps=max wbps=max riops=max wiops=max")));
    }
    back
}

/// The writes in their order.
pub(super) fn plan(group: &Group, limits: &Limits) -> Result<Vec<Write>, SysError> {
    let mut plan = Plan { group, writes: Vec::new() };
    let v2 = group.hierarchy.is_v2();
    plan.cpuset(limits)?;
    if v2 {
        plan.cpu_v2(limits)?;
        plan.memory_v2(limits)?;
    } else {
        plan.cpu_v1(limits)?;
        plan.memory_v1(limits)?;
    }
    if let Some(pids) = limits.pids {
        plan.add("pids", "pids.max", or_max(pids))?;
    }
    for (size, bytes) in &limits.hugepages {
        let file = if v2 { format!("hugetlb.{size}.max") } else { format!("hugetlb.{size}.limit_in_bytes") };
        plan.add("hugetlb", &file, bytes.to_string())?;
        // Pages promised to a mapping count as well, where the kernel counts them (5.7).
        let rsvd = if v2 {
            format!("hugetlb.{size}.rsvd.max")
        } else {
            format!("hugetlb.{size}.rsvd.limit_in_bytes")
        };
        if plan.now("hugetlb", &rsvd).is_some() {
            plan.add("hugetlb", &rsvd, bytes.to_string())?;
        }
    }
    for (file, value) in &limits.unified {
        if !v2 {
            let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
            return Err(SysError::named(
                "write",
                format!("{file}, which cgroup v1 does not have"),
                unsupported,
            ));
        }
        plan.add("unified", file, value.clone())?;
    }
    Ok(plan.writes)
}

/// What a cgroup file is given for a number of which -1 means no limit.
fn or_max(number: i64) -> String {
    if number < 0 { "max".into() } else { number.to_string() }
}

struct Plan<'a> {
    group: &'a Group,
    writes: Vec<Write>,
}

impl Plan<'_> {
    fn add(&mut self, controller: &str, file: &str, value: String) -> Result<(), SysError> {
        let Some(directory) = self.group.directory(controller) else {
            let absent = std::io::Error::new(std::io::ErrorKind::NotFound, "the controller is not mounted");
            return Err(SysError::named(
                "write",
                format!("{file} of {}", self.group.path().display()),
                absent,
            ));
        };
        self.writes.push(Write { file: directory.join(file), value });
        Ok(())
    }

    /// A file's value as it is now.
    fn now(&self, controller: &str, file: &str) -> Option<String> {
        value(self.group, controller, file)
    }

    fn number(&self, controller: &str, file: &str) -> Option<i64> {
        self.now(controller, file)?.parse().ok()
    }

    /// Memory nodes first: CPUs without memory of their own are of no use.
    fn cpuset(&mut self, limits: &Limits) -> Result<(), SysError> {
        for (file, list) in [("cpuset.mems", &limits.cpuset_mems), ("cpuset.cpus", &limits.cpuset_cpus)] {
            if let Some(list) = list {
                self.add("cpuset", file, list.clone())?;
            }
        }
        Ok(())
    }

    /// A quota that shrinks goes before a period that does, and after one that grows: the ratio never exceeds both
    /// the old and the new one, which a limited parent would refuse.
    fn cpu_v1(&mut self, limits: &Limits) -> Result<(), SysError> {
        if let Some(shares) = limits.cpu_shares {
            self.add("cpu", "cpu.shares", shares.to_string())?;
        }
        let quota = limits.cpu_quota.map(|quota| ("cpu.cfs_quota_us", quota.to_string()));
        let period = limits.cpu_period.map(|period| ("cpu.cfs_period_us", period.to_string()));
        let before = self.number("cpu", "cpu.cfs_period_us");
        let shrinks = limits
            .cpu_period
            .zip(before)
            .is_some_and(|(new, old)| i64::try_from(new).is_ok_and(|new| new < old));
        let order = if shrinks { [quota, period] } else { [period, quota] };
        order.into_iter().flatten().try_for_each(|(file, value)| self.add("cpu", file, value))
    }

    /// `cpu.max` holds both: what is not asked for stays.
    fn cpu_v2(&mut self, limits: &Limits) -> Result<(), SysError> {
        if let Some(shares) = limits.cpu_shares {
            self.add("cpu", "cpu.weight", weight_of_shares(shares).to_string())?;
        }
        if limits.cpu_quota.is_none() && limits.cpu_period.is_none() {
            return Ok(());
        }
        let now = self.now("cpu", "cpu.max").unwrap_or_default();
        let (quota, period) = now.split_once(' ').unwrap_or(("max", ""));
        let quota = limits.cpu_quota.map_or_else(|| quota.to_owned(), or_max);
        let period =
            limits.cpu_period.or_else(|| period.parse().ok()).unwrap_or(CPU_PERIOD_DEFAULT).to_string();
        self.add("cpu", "cpu.max", format!("{quota} {period}"))
    }

    /// The sum of memory and swap may never be below memory: the sum goes first when memory grows past it.
    fn memory_v1(&mut self, limits: &Limits) -> Result<(), SysError> {
        let number = |bytes: i64| (if bytes < 0 { i64::MAX } else { bytes }, bytes.to_string());
        let memory = limits.memory.map(number);
        let sum = limits.memory_and_swap.map(number);
        let grows = memory.as_ref().is_some_and(|(new, _)| {
            self.number("memory", "memory.memsw.limit_in_bytes").is_some_and(|sum| *new > sum)
        });
        let memory = memory.map(|(_, value)| ("memory.limit_in_bytes", value));
        let sum = sum.map(|(_, value)| ("memory.memsw.limit_in_bytes", value));
        let order = if grows { [sum, memory] } else { [memory, sum] };
        order.into_iter().flatten().try_for_each(|(file, value)| self.add("memory", file, value))
    }

    /// v2 limits swap alone.
    fn memory_v2(&mut self, limits: &Limits) -> Result<(), SysError> {
        if let Some(memory) = limits.memory {
            self.add("memory", "memory.max", or_max(memory))?;
        }
        let Some(sum) = limits.memory_and_swap else { return Ok(()) };
        let memory =
            limits.memory.or_else(|| self.number("memory", "memory.max")).filter(|bytes| *bytes >= 0);
        let swap = match (sum, memory) {
            (-1, _) => "max".to_owned(),
            (sum, Some(memory)) => sum.saturating_sub(memory).max(0).to_string(),
            (_, None) => "max".to_owned(),
        };
        self.add("memory", "memory.swap.max", swap)
    }
}

/// v2's weight (1 to 10000, 100 by default) for v1's shares (2 to 262144, 1024 by default): the curve through both ends
/// and both defaults, as runc 1.3.2, crun 1.23 and later have it. Their older versions drew a straight line, which makes
/// 39 of 1024; a caller that has the runtime write a group says the weight itself.
// The ends and what lies between fit either type.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    let log = (shares as f64).log2();
    let exponent = log.mul_add(log, 125.0 * log) / 612.0 - 7.0 / 34.0;
    // What the ends come to in binary fractions is a hair off.
    let weight = (10f64.powf(exponent) - 1e-9).ceil();
    (weight as u64).clamp(1, 10_000)
}

/// Whether somebody may have written this weight for these shares: by the curve, or by the straight line through both
/// ends that runc before 1.3.2 and crun before 1.23 drew.
pub fn is_weight_of_shares(weight: u64, shares: u64) -> bool {
    let line = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
    weight == weight_of_shares(shares) || weight == line
}

/// The most shares whose weight is not above this one: 1024 for 100, the defaults of both.
pub(super) fn shares_of_weight(weight: u64) -> u64 {
    let (mut low, mut high) = (2_u64, 262_144_u64);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if weight_of_shares(middle) <= weight { low = middle } else { high = middle - 1 }
    }
    low
}

fn value(group: &Group, controller: &str, file: &str) -> Option<String> {
    let text = fs::read_to_string(group.directory(controller)?.join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// The kernel's own limit on one size of huge page, bytes.
pub(super) fn hugepage_limit(group: &Group, size: &str) -> Option<u64> {
    let file = match group.hierarchy.is_v2() {
        true => format!("hugetlb.{size}.max"),
        false => format!("hugetlb.{size}.limit_in_bytes"),
    };
    value(group, "hugetlb", &file)?.parse().ok()
}

/// Memory in use that no reclaim of page cache gives back, bytes.
pub(super) fn unreclaimable(group: &Group) -> Option<u64> {
    let (usage, prefix) = match group.hierarchy.is_v2() {
        true => ("memory.current", ""),
        false => ("memory.usage_in_bytes", "total_"),
    };
    let stat = value(group, "memory", "memory.stat")?;
    let of = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(prefix)?.strip_prefix(name));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    let used: u64 = value(group, "memory", usage)?.parse().ok()?;
    Some(used.saturating_sub(of("active_file ")).saturating_sub(of("inactive_file ")))
}

pub(super) fn read(group: &Group) -> Limits {
    let text = |controller, file| value(group, controller, file).filter(|text| !text.is_empty());
    let number = |controller, file| text(controller, file)?.parse::<i64>().ok();
    let bounded = |controller, file| number(controller, file).filter(|n| *n < V1_UNLIMITED_FROM);
    let mut limits = Limits {
        cpuset_cpus: text("cpuset", "cpuset.cpus"),
        cpuset_mems: text("cpuset", "cpuset.mems"),
        pids: number("pids", "pids.max"),
        ..Limits::default()
    };
    match &group.hierarchy {
        Hierarchy::V1 { .. } => {
            limits.cpu_shares = number("cpu", "cpu.shares").and_then(|n| u64::try_from(n).ok());
            limits.cpu_quota = number("cpu", "cpu.cfs_quota_us");
            limits.cpu_period = number("cpu", "cpu.cfs_period_us").and_then(|n| u64::try_from(n).ok());
            limits.memory = bounded("memory", "memory.limit_in_bytes");
            limits.memory_and_swap = bounded("memory", "memory.memsw.limit_in_bytes");
        }
        Hierarchy::V2 { .. } => {
            let weight = number("cpu", "cpu.weight").and_then(|n| u64::try_from(n).ok());
            limits.cpu_shares = weight.map(shares_of_weight);
            if let Some((quota, period)) =
                text("cpu", "cpu.max").as_deref().and_then(|max| max.split_once(' '))
            {
                limits.cpu_quota = Some(quota.parse().unwrap_or(-1));
                limits.cpu_period = period.parse().ok();
            }
            limits.memory = number("memory", "memory.max");
            let swap = number("memory", "memory.swap.max");
            limits.memory_and_swap =
                limits.memory.zip(swap).map(|(memory, swap)| memory.saturating_add(swap));
        }
    }
    limits
}
