//! What pods and containers use, in the shape of CRI's stats: plain numbers from cgroups and interfaces.
//!
//! Nothing here fails: what the kernel does not tell is `None`, so that one odd container never costs a whole list.
//! The only state is [`Sampler`], which remembers each group's last CPU time to tell its rate.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kernel::cgroup::CgroupStats;
pub use kernel::cgroup::{Pressure, PressureLine};
use model::{ContainerId, PodId, UnixNanos};
pub use network::InterfaceStats;

/// Two samples nearer than this tell more of the scheduler's ticks than of the container: the last rate stands.
const SAMPLE_NS_MIN: i64 = 100_000_000;
const NS_PER_SECOND: u128 = 1_000_000_000;
/// The interface that the CNI result's addresses are on.
const DEFAULT_INTERFACE: &str = "eth0";

/// A container's use of the node (CRI ContainerStats, without its attributes).
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStats {
    /// Whose.
    pub container: ContainerId,
    /// Of its cgroup; `None` when it does not run.
    pub usage: Option<Usage>,
    /// Of its writable layer.
    pub layer: Option<LayerUsage>,
}

/// A pod's use of the node (CRI LinuxPodSandboxStats, without the attributes).
#[derive(Clone, Debug, PartialEq)]
pub struct PodStats {
    /// Whose.
    pub pod: PodId,
    /// Of the pod's cgroup, its containers' included; `None` when nothing of it runs.
    pub usage: Option<Usage>,
    /// Of its interfaces; `None` with the host's network.
    pub network: Option<NetworkUsage>,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}

/// What a cgroup uses, and when it was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// When.
    pub at: UnixNanos,
    /// CPU time since the group was made, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// CPU time per second, nanoseconds; `None` until there are two samples.
    pub cpu_nano_cores: Option<u64>,
    /// Pressure on CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Memory, page cache included, bytes.
    pub memory: Option<u64>,
    /// Memory that cannot be taken back without harm, bytes.
    pub working_set: Option<u64>,
    /// What is left to the limit, bytes; 0 without a limit, as clients expect.
    pub available: Option<u64>,
    /// Anonymous memory, bytes.
    pub rss: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Those that waited for a disk.
    pub major_page_faults: Option<u64>,
    /// Pressure on memory.
    pub memory_pressure: Option<Pressure>,
    /// Swap in use, bytes.
    pub swap: Option<u64>,
    /// Swap that is left to the limit, bytes; `None` without a limit.
    pub swap_available: Option<u64>,
    /// Pressure on I/O.
    pub io_pressure: Option<Pressure>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// What a writable layer takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// When.
    pub at: UnixNanos,
    /// Where the file system is that it lies on.
    pub mountpoint: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
}

/// What went over a pod's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkUsage {
    /// When.
    pub at: UnixNanos,
    /// eth0, or the first that is not lo.
    pub default_interface: Option<InterfaceStats>,
    /// The others but lo, in the kernel's order.
    pub interfaces: Vec<InterfaceStats>,
}

// === impl Usage ===

impl Usage {
    /// What the counters of a group mean to a client. `cpu_nano_cores` comes from [`Sampler::rate`].
    pub fn new(stats: &CgroupStats, at: UnixNanos, cpu_nano_cores: Option<u64>) -> Self {
        let memory = &stats.memory;
        let available = |working_set: u64| memory.limit.map_or(0, |limit| limit.saturating_sub(working_set));
        Self {
            at,
            cpu_ns: stats.cpu.usage_ns,
            cpu_nano_cores,
            cpu_pressure: stats.cpu_pressure.clone(),
            memory: memory.usage,
            working_set: memory.working_set,
            available: memory.working_set.map(available),
            rss: memory.rss,
            page_faults: memory.page_faults,
            major_page_faults: memory.major_page_faults,
            memory_pressure: stats.memory_pressure.clone(),
            swap: memory.swap,
            swap_available: memory
                .swap_limit
                .zip(memory.swap)
                .map(|(limit, used)| limit.saturating_sub(used)),
            io_pressure: stats.io_pressure.clone(),
            tasks: stats.pids,
        }
    }
}

impl NetworkUsage {
    /// The counters of a pod's interfaces; lo is not counted, as no client means it.
    pub fn new(interfaces: Vec<InterfaceStats>, at: UnixNanos) -> Self {
        let mut interfaces: Vec<InterfaceStats> =
            interfaces.into_iter().filter(|interface| interface.name != "lo").collect();
        let named = interfaces.iter().position(|interface| interface.name == DEFAULT_INTERFACE);
        let default_interface =
            named.or((!interfaces.is_empty()).then_some(0)).map(|place| interfaces.remove(place));
        Self { at, default_interface, interfaces }
    }
}

/// Each group's CPU rate, from its last sample to this one: nothing runs between requests.
#[derive(Debug, Default)]
pub struct Sampler {
    samples: Mutex<HashMap<String, Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: UnixNanos,
    cpu_ns: u64,
    rate: Option<u64>,
}

impl Sampler {
    /// The group's CPU time per second, nanoseconds, since its sample before this one; `None` at the first.
    pub fn rate(&self, cgroup: &str, at: UnixNanos, cpu_ns: u64) -> Option<u64> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = samples.get_mut(cgroup) else {
            samples.insert(cgroup.to_owned(), Sample { at, cpu_ns, rate: None });
            return None;
        };
        let elapsed = at.saturating_sub(last.at);
        // A clock that was set back gives no rate: begin again from here.
        if (0..SAMPLE_NS_MIN).contains(&elapsed) && cpu_ns >= last.cpu_ns {
            return last.rate;
        }
        let rate = match (u128::try_from(elapsed), cpu_ns.checked_sub(last.cpu_ns)) {
            (Ok(elapsed), Some(used)) if elapsed > 0 => {
                Some(u64::try_from(u128::from(used) * NS_PER_SECOND / elapsed).unwrap_or(u64::MAX))
            }
            // Less than before is another group of the same name.
            _ => None,
        };
        *last = Sample { at, cpu_ns, rate };
        rate
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, cgroup: &str) {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).remove(cgroup);
    }

    /// Reads a group and tells its use now; `None` when there is no such group. Blocks for the file reads.
    pub fn read(&self, group: &kernel::cgroup::Group, at: UnixNanos) -> Option<Usage> {
        let path = group.path().to_string_lossy().into_owned();
        if !group.exists() {
            self.forget(&path);
            return None;
        }
        let stats = group.read_stats();
        let rate = stats.cpu.usage_ns.and_then(|cpu_ns| self.rate(&path, at, cpu_ns));
        Some(Usage::new(&stats, at, rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn rates_come_from_two_samples_of_one_group() {
        let sampler = Sampler::default();
        // when, CPU time, the rate
        for (at, cpu_ns, expect) in [
            (SECOND, 500, None),
            (2 * SECOND, 500 + 250_000_000, Some(250_000_000)),
            (2 * SECOND + 50_000_000, 900_000_000, Some(250_000_000)),
            (4 * SECOND, 4_250_000_500, Some(2_000_000_000)),
            (5 * SECOND, 4_250_000_500, Some(0)),
            // another group by this name, and then a clock set back
            (6 * SECOND, 100, None),
            (5 * SECOND, 200, None),
            (6 * SECOND, 1_200, Some(1_000)),
        ] {
            assert_eq!(sampler.rate("/a", at, cpu_ns), expect, "{at} {cpu_ns}");
        }
        assert_eq!(sampler.rate("/b", 7 * SECOND, 1), None, "each group has its own");
        sampler.forget("/a");
        assert_eq!(sampler.rate("/a", 8 * SECOND, 5_000), None);
    }

    #[test]
    fn memory_is_what_clients_expect() {
        // limit, working set, swap limit, swap; available, swap available
        let rows = [
            (Some(100), Some(30), Some(50), Some(20), Some(70), Some(30)),
            (Some(100), Some(130), Some(10), Some(20), Some(0), Some(0)),
            (None, Some(30), None, Some(20), Some(0), None),
            (Some(100), None, None, None, None, None),
        ];
        for (limit, working_set, swap_limit, swap, available, swap_available) in rows {
            let mut stats = CgroupStats::default();
            stats.memory.limit = limit;
            stats.memory.working_set = working_set;
            stats.memory.swap_limit = swap_limit;
            stats.memory.swap = swap;
            let usage = Usage::new(&stats, 1, None);
            assert_eq!((usage.available, usage.swap_available), (available, swap_available));
        }
    }

    #[test]
    fn the_default_interface_is_eth0_and_never_lo() {
        let interface = |name: &str| InterfaceStats { name: name.into(), ..InterfaceStats::default() };
        for (names, default, others) in [
            (&["lo", "net1", "eth0"][..], Some("eth0"), &["net1"][..]),
            (&["lo", "net1", "net2"], Some("net1"), &["net2"]),
            (&["lo"], None, &[]),
        ] {
            let usage = NetworkUsage::new(names.iter().map(|name| interface(name)).collect(), 1);
            assert_eq!(usage.default_interface.as_ref().map(|i| i.name.as_str()), default);
            let found: Vec<&str> = usage.interfaces.iter().map(|i| i.name.as_str()).collect();
            assert_eq!(found, others);
        }
    }

    #[test]
    fn a_group_that_is_not_there_has_no_usage() {
        let Ok(hierarchy) = kernel::cgroup::Hierarchy::detect() else {
            println!("skipped: no cgroups are mounted");
            return;
        };
        let sampler = Sampler::default();
        assert_eq!(sampler.read(&hierarchy.group("/gantline-test-nowhere"), 1), None);
        let root = sampler.read(&hierarchy.group("/"), 1).unwrap();
        assert_eq!(root.at, 1);
    }
}
