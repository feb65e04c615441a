//! What a container may use: validated once, then written as OCI resources or as limits for a running cgroup.

use kernel::cgroup::Limits;
use model::Resources;
use model::limits::CONTAINER_MEMORY_BYTES_MIN;

use super::host::{CgroupVersion, HostFacts};
use super::oci::{self, Cpu, HugepageLimit, Memory, Pids};
use super::{SpecError, SpecInput};

/// The kernel's bounds on a CFS period, microseconds (kernel/sched/core.c).
const CPU_PERIOD: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// The kernel's least quota, microseconds.
const CPU_QUOTA_MIN: i64 = 1_000;
/// The kernel's bounds on shares.
const CPU_SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;

pub(super) fn resources(input: &SpecInput<'_>) -> Result<oci::Resources, SpecError> {
    let limits = limits(&input.container.resources, "linux.resources", input.host)?;
    let pids =
        input.defaults.pids_limit.map(|limit| Pids { limit: i64::try_from(limit).unwrap_or(i64::MAX) });
    Ok(oci::Resources { pids, ..written(limits) })
}

/// A specification with other limits and, unless it is 0, another oom_score_adj: what the request does not limit stays.
pub(crate) fn with_limits(mut spec: oci::Spec, limits: Limits, oom_score_adj: i64) -> oci::Spec {
    if let Some(adj) = i32::try_from(oom_score_adj).ok().filter(|adj| *adj != 0) {
        spec.process.oom_score_adj = Some(adj);
    }
    let before = spec.linux.resources;
    spec.linux.resources = oci::Resources { devices: before.devices, pids: before.pids, ..written(limits) };
    spec
}

fn written(limits: Limits) -> oci::Resources {
    let memory = Memory { limit: limits.memory, swap: limits.memory_and_swap };
    let cpu = Cpu {
        shares: limits.cpu_shares,
        quota: limits.cpu_quota,
        period: limits.cpu_period,
        cpus: limits.cpuset_cpus,
        mems: limits.cpuset_mems,
    };
    oci::Resources {
        devices: Vec::new(),
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: None,
        hugepage_limits: limits
            .hugepages
            .into_iter()
            .map(|(page_size, limit)| HugepageLimit { page_size, limit })
            .collect(),
        unified: limits.unified,
    }
}

/// The request's resources as limits of a cgroup; what is zero or empty there is unset here. `field` is what errors
/// name the message by.
///
/// A memory limit without a swap limit is a limit on both together, where the node can limit swap: a container gets
/// no swap that it did not ask for. A swap limit that the node cannot keep is left out, as every runtime does.
///
/// # Errors
/// The first value that the kernel could not keep, or that contradicts another.
pub fn limits(asked: &Resources, field: &str, host: &HostFacts) -> Result<Limits, SpecError> {
    let invalid = |name: &str, why: String| Err(SpecError::invalid(format!("{field}.{name}"), why));
    let mut limits = Limits::default();

    match asked.cpu_period {
        0 => {}
        period if CPU_PERIOD.contains(&period) => limits.cpu_period = u64::try_from(period).ok(),
        period => {
            return invalid("cpu_period", format!("{period} is not within 1000 to 1000000 microseconds"));
        }
    }
    match asked.cpu_quota {
        0 => {}
        quota if quota == -1 || quota >= CPU_QUOTA_MIN => limits.cpu_quota = Some(quota),
        quota => {
            return invalid("cpu_quota", format!("{quota} is neither -1 nor at least 1000 microseconds"));
        }
    }
    match asked.cpu_shares {
        0 => {}
        shares if shares < 0 => return invalid("cpu_shares", format!("{shares} is negative")),
        // The kernel bounds v1's silently, and so the weight under v2 that is derived from it.
        shares => {
            limits.cpu_shares = u64::try_from(shares.clamp(*CPU_SHARES.start(), *CPU_SHARES.end())).ok()
        }
    }
    for (name, list, limit) in [
        ("cpuset_cpus", &asked.cpuset_cpus, &mut limits.cpuset_cpus),
        ("cpuset_mems", &asked.cpuset_mems, &mut limits.cpuset_mems),
    ] {
        if !list.is_empty() {
            if !is_list(list) {
                return invalid(name, format!("{list:?} is not a list such as 0-2,7"));
            }
            *limit = Some(list.clone());
        }
    }

    match asked.memory_limit {
        0 => {}
        bytes if bytes == -1 || bytes >= CONTAINER_MEMORY_BYTES_MIN => limits.memory = Some(bytes),
        bytes if bytes < 0 => return invalid("memory_limit_in_bytes", format!("{bytes} is negative")),
        bytes => {
            let why = format!(
                "no container starts with less than {CONTAINER_MEMORY_BYTES_MIN} bytes, and this is {bytes}"
            );
            return invalid("memory_limit_in_bytes", why);
        }
    }
    let memory = limits.memory.filter(|bytes| *bytes > 0);
    match asked.memory_swap_limit {
        bytes if bytes < -1 => return invalid("memory_swap_limit_in_bytes", format!("{bytes} is negative")),
        bytes if bytes > 0 && memory.is_none() => {
            let why = format!("{bytes} bounds memory and swap together, and needs memory_limit_in_bytes");
            return invalid("memory_swap_limit_in_bytes", why);
        }
        bytes if bytes > 0 && memory.is_some_and(|memory| bytes < memory) => {
            let why = format!("{bytes} is below memory_limit_in_bytes, which it includes");
            return invalid("memory_swap_limit_in_bytes", why);
        }
        _ if !host.swap_controller => {}
        0 => limits.memory_and_swap = limits.memory,
        bytes => limits.memory_and_swap = Some(bytes),
    }

    for (n, hugepages) in asked.hugepage_limits.iter().enumerate() {
        let (size, limit) = (&hugepages.page_size, hugepages.limit);
        if host.hugepage_sizes.contains(size) {
            limits.hugepages.push((size.clone(), limit));
        } else if limit > 0 {
            let why = format!("this node cannot limit huge pages of {size:?}");
            return invalid(&format!("hugepage_limits[{n}].page_size"), why);
        }
        // The kubelet sends a limit of 0 for every size of the node; where none can be used, 0 holds anyway.
    }

    for (key, value) in &asked.unified {
        let name = format!("unified[{key}]");
        if host.cgroup == CgroupVersion::V1 {
            return invalid(&name, "this node has cgroup v1, which has no such file".into());
        }
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !plain || !key.contains('.') || key.starts_with(['.', '-']) {
            return invalid(&name, "is not the name of a controller's file".into());
        }
        if key.starts_with("cgroup.") {
            return invalid(&name, "is not a limit".into());
        }
        limits.unified.insert(key.clone(), value.clone());
    }
    if let (CgroupVersion::V2, Some(shares)) = (host.cgroup, limits.cpu_shares) {
        // OCI runtimes of different age make different weights of the same shares: this one holds at the start and
        // after each change. A weight that is asked for by its own name goes first.
        let weight = || kernel::cgroup::weight_of_shares(shares).to_string();
        limits.unified.entry("cpu.weight".to_owned()).or_insert_with(weight);
    }
    Ok(limits)
}

/// Numbers and ranges as cpuset(7)'s list format has them.
fn is_list(text: &str) -> bool {
    text.split(',').all(|item| {
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        matches!((from.parse::<u32>(), to.parse::<u32>()), (Ok(from), Ok(to)) if from <= to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::Fixture;
    use model::HugepageLimit as Asked;

    const MIB: i64 = 1 << 20;

    fn check(asked: Resources, host: &HostFacts) -> Result<Limits, String> {
        limits(&asked, "linux.resources", host).map_err(|e| e.to_string())
    }

    #[test]
    fn unset_values_limit_nothing() {
        let fixture = Fixture::default();
        assert_eq!(check(Resources::default(), &fixture.host), Ok(Limits::default()));
        assert_eq!(resources(&fixture.input()).unwrap(), oci::Resources::default());
    }

    #[test]
    fn memory_and_swap_go_together() {
        // memory, swap, whether the node can limit swap; memory and the sum
        let rows = [
            (0, 0, true, (None, None)),
            (64 * MIB, 0, true, (Some(64 * MIB), Some(64 * MIB))),
            (64 * MIB, 0, false, (Some(64 * MIB), None)),
            (64 * MIB, 96 * MIB, true, (Some(64 * MIB), Some(96 * MIB))),
            (64 * MIB, 96 * MIB, false, (Some(64 * MIB), None)),
            (64 * MIB, -1, true, (Some(64 * MIB), Some(-1))),
            (-1, 0, true, (Some(-1), Some(-1))),
            (0, -1, true, (None, Some(-1))),
        ];
        for (memory_limit, memory_swap_limit, swap_controller, expect) in rows {
            let mut fixture = Fixture::default();
            fixture.host.swap_controller = swap_controller;
            let asked = Resources { memory_limit, memory_swap_limit, ..Resources::default() };
            let found = check(asked, &fixture.host).unwrap();
            assert_eq!((found.memory, found.memory_and_swap), expect, "{memory_limit} {memory_swap_limit}");
        }
    }

    #[test]
    fn values_that_the_kernel_could_not_keep_are_named() {
        let r = Resources::default;
        let rows = [
            (
                Resources { cpu_period: 999, ..r() },
                "cpu_period: 999 is not within 1000 to 1000000 microseconds",
            ),
            (
                Resources { cpu_quota: 999, ..r() },
                "cpu_quota: 999 is neither -1 nor at least 1000 microseconds",
            ),
            (
                Resources { cpu_quota: -2, ..r() },
                "cpu_quota: -2 is neither -1 nor at least 1000 microseconds",
            ),
            (Resources { cpu_shares: -1, ..r() }, "cpu_shares: -1 is negative"),
            (
                Resources { cpuset_cpus: "0-".into(), ..r() },
                "cpuset_cpus: \"0-\" is not a list such as 0-2,7",
            ),
            (
                Resources { cpuset_mems: "1-0".into(), ..r() },
                "cpuset_mems: \"1-0\" is not a list such as 0-2,7",
            ),
            (Resources { memory_limit: -2, ..r() }, "memory_limit_in_bytes: -2 is negative"),
            (
                Resources { memory_limit: 524_287, ..r() },
                "memory_limit_in_bytes: no container starts with less than 524288 bytes, and this is 524287",
            ),
            (Resources { memory_swap_limit: -2, ..r() }, "memory_swap_limit_in_bytes: -2 is negative"),
            (
                Resources { memory_swap_limit: 1, ..r() },
                "memory_swap_limit_in_bytes: 1 bounds memory and swap together, and needs memory_limit_in_bytes",
            ),
            (
                Resources { memory_limit: 2 << 20, memory_swap_limit: 1, ..r() },
                "memory_swap_limit_in_bytes: 1 is below memory_limit_in_bytes, which it includes",
            ),
            (
                Resources { hugepage_limits: vec![Asked { page_size: "3MB".into(), limit: 1 }], ..r() },
                "hugepage_limits[0].page_size: this node cannot limit huge pages of \"3MB\"",
            ),
            (
                Resources { unified: [("memory.high".into(), "1".into())].into(), ..r() },
                "unified[memory.high]: this node has cgroup v1, which has no such file",
            ),
        ];
        for (asked, expect) in rows {
            let fixture = Fixture::default();
            assert_eq!(check(asked, &fixture.host), Err(format!("linux.resources.{expect}")));
        }
    }

    #[test]
    fn unified_keys_are_files_of_controllers() {
        let mut fixture = Fixture::default();
        fixture.host.cgroup = CgroupVersion::V2;
        for (key, expect) in [
            ("memory.high", Ok(())),
            ("hugetlb.2MB.rsvd.max", Ok(())),
            ("memory", Err("is not the name of a controller's file")),
            ("../memory.high", Err("is not the name of a controller's file")),
            ("cgroup.procs", Err("is not a limit")),
        ] {
            let asked = Resources { unified: [(key.into(), "1".into())].into(), ..Resources::default() };
            let found = check(asked, &fixture.host).map(|_| ());
            assert_eq!(found, expect.map_err(|e| format!("linux.resources.unified[{key}]: {e}")));
        }
    }

    #[test]
    fn a_whole_request_becomes_oci_resources() {
        let mut fixture = Fixture::default();
        fixture.defaults.pids_limit = Some(100);
        fixture.container.resources = Resources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1,
            memory_limit: 64 * MIB,
            cpuset_cpus: "0-1,3".into(),
            hugepage_limits: vec![
                Asked { page_size: "2MB".into(), limit: 4 << 20 },
                Asked { page_size: "16GB".into(), limit: 0 },
            ],
            ..Resources::default()
        };
        let built = resources(&fixture.input()).unwrap();
        let cpu = built.cpu.unwrap();
        assert_eq!((cpu.period, cpu.quota, cpu.shares), (Some(100_000), Some(50_000), Some(2)));
        assert_eq!((cpu.cpus.as_deref(), cpu.mems), (Some("0-1,3"), None));
        assert_eq!(built.memory.unwrap().limit, Some(64 * MIB));
        assert_eq!(built.pids.unwrap().limit, 100);
        assert_eq!(built.hugepage_limits, [HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }]);
    }
}
