//! What pods and containers use, in the shape of CRI's stats: plain numbers from cgroups and interfaces.
//!
//! Nothing here fails: what the kernel does not tell is `None`, so that one odd container never costs a whole list.
//! [`crate::meter`] has what must be remembered from one reading to the next.

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use kernel::cgroup::{
    CgroupStats, CpuStats, DeviceIo, HugepageStats, MemoryStats, Pressure, PressureLine,
};
pub use kernel::disk::Capacity;
use model::{ContainerId, PodId, UnixNanos};
pub use network::InterfaceStats;
use serde_json::Value;

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
    /// The one that the CNI plugins gave the pod's addresses to.
    pub default_interface: Option<InterfaceStats>,
    /// The others but lo, in the kernel's order.
    pub interfaces: Vec<InterfaceStats>,
}

/// What the metrics of pods tell, from one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Where writable layers lie.
    pub disk: Option<Disk>,
    /// The block devices that were used, by major and minor number: `/dev/vda`.
    pub devices: BTreeMap<(u32, u32), String>,
    /// Each pod's.
    pub pods: Vec<PodMetrics>,
}

/// The file system that writable layers lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What it is on: `/dev/vda`.
    pub device: String,
    /// Its size.
    pub capacity: Capacity,
}

/// One pod's metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct PodMetrics {
    /// Whose.
    pub pod: PodId,
    /// Of the pod's cgroup, its containers' included.
    pub group: Option<GroupMetrics>,
    /// Of its interfaces; `None` with the host's network.
    pub network: Option<NetworkUsage>,
    /// Those of its containers that run.
    pub containers: Vec<ContainerMetrics>,
}

/// One running container's metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerMetrics {
    /// Whose.
    pub container: ContainerId,
    /// Of its cgroup.
    pub group: GroupMetrics,
    /// Of its processes.
    pub processes: Processes,
    /// Of its writable layer.
    pub layer: Option<LayerUsage>,
}

/// What the kernel counts of a cgroup, and when it was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupMetrics {
    /// When.
    pub at: UnixNanos,
    /// What.
    pub stats: CgroupStats,
}

/// The processes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// How many.
    pub count: u64,
    /// Their open files.
    pub files: u64,
    /// Those of them that are sockets; `None` where there are too many files to look at each.
    pub sockets: Option<u64>,
    /// The first process's soft limit on open files; `None` also without one.
    pub open_files_max: Option<u64>,
}

// === impl Usage ===

impl Usage {
    /// What the counters of a group mean to a client. `cpu_nano_cores` comes from [`crate::meter`].
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
    /// The counters of a pod's interfaces; lo is not counted, as no client means it. The CNI plugins' result tells
    /// which one is the default; without it, or when that one is gone, the first is.
    pub fn new(interfaces: Vec<InterfaceStats>, cni_result: Option<&Value>, at: UnixNanos) -> Self {
        let mut interfaces: Vec<InterfaceStats> =
            interfaces.into_iter().filter(|interface| interface.name != "lo").collect();
        let default = cni_result.and_then(addressed_interface).unwrap_or(network::POD_INTERFACE);
        let named = interfaces.iter().position(|interface| interface.name == default);
        let default_interface =
            named.or((!interfaces.is_empty()).then_some(0)).map(|place| interfaces.remove(place));
        Self { at, default_interface, interfaces }
    }
}

/// The interface inside the pod that the result's first address is on (CNI specification, "Success").
fn addressed_interface(result: &Value) -> Option<&str> {
    let interfaces = result.get("interfaces")?.as_array()?;
    let inside = |interface: &&Value| {
        interface.get("sandbox").and_then(Value::as_str).is_some_and(|sandbox| !sandbox.is_empty())
    };
    let addressed = result.pointer("/ips/0/interface").and_then(Value::as_u64);
    let addressed = addressed.and_then(|index| interfaces.get(usize::try_from(index).ok()?)).filter(inside);
    addressed.or_else(|| interfaces.iter().find(inside))?.get("name")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_default_interface_is_the_cni_results_and_never_lo() {
        let interface = |name: &str| InterfaceStats { name: name.into(), ..InterfaceStats::default() };
        let net1 = serde_json::json!({
            "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
            "ips": [{"address": "10.0.0.1/8", "interface": 2}],
        });
        let outside = serde_json::json!({
            "interfaces": [{"name": "veth0"}, {"name": "net2", "sandbox": "/n"}], "ips": [{"interface": 0}],
        });
        for (names, result, default, others) in [
            (&["lo", "net1", "eth0"][..], None, Some("eth0"), &["net1"][..]),
            (&["lo", "eth0", "net1"], Some(&net1), Some("net1"), &["eth0"]),
            (&["lo", "eth0", "net2"], Some(&outside), Some("net2"), &["eth0"]),
            (&["lo", "eth0"], Some(&Value::Null), Some("eth0"), &[]),
            (&["lo", "net1", "net2"], None, Some("net1"), &["net2"]),
            (&["lo"], None, None, &[]),
        ] {
            let usage = NetworkUsage::new(names.iter().map(|name| interface(name)).collect(), result, 1);
            assert_eq!(usage.default_interface.as_ref().map(|i| i.name.as_str()), default);
            let found: Vec<&str> = usage.interfaces.iter().map(|i| i.name.as_str()).collect();
            assert_eq!(found, others);
        }
    }
}
