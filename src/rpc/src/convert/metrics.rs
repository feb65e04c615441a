//! The metrics of pods and containers as CRI messages, under cAdvisor's names and labels.
//!
//! A value is a whole number in CRI: times are rounded to seconds, half a second up. A number that the kernel does not
//! tell is absent, never 0.

mod descriptors;

use api::v1;
use model::{Resources, UnixNanos};
use pod::stats::{
    CgroupStats, ContainerMetrics, CpuStats, DeviceIo, Disk, GroupMetrics, InterfaceStats, LayerUsage,
    MemoryStats, Metrics, PodMetrics, Pressure, Processes,
};
use pod::{ContainerPhase, ContainerStatus, PodView};

pub(crate) use descriptors::all as descriptors;
use descriptors::*;

const NS_PER_SECOND: u64 = 1_000_000_000;
const US_PER_SECOND: u64 = 1_000_000;
/// What the kernel has where nothing else was asked for (Documentation/scheduler/sched-bwc.rst, cgroups(7)).
const CPU_PERIOD_DEFAULT: u64 = 100_000;
const CPU_SHARES_DEFAULT: u64 = 1024;

/// One pod's, its containers' with it.
pub(crate) fn pod(view: &PodView, pod: &PodMetrics, all: &Metrics) -> v1::PodSandboxMetrics {
    let identity = &view.pod.config.identity;
    let whose = [
        view.pod.cgroup.as_str(),
        // Two sandboxes of one pod may share a cgroup; no two metrics may share all labels.
        view.pod.id.as_str(),
        "",
        &identity.namespace,
        &identity.name,
        "",
    ];
    let mut told = Told::new(whose, all);
    if let Some(group) = &pod.group {
        told.at = group.at;
        told.group(group);
        told.put(&START_TIME, &[], seconds_since_epoch(view.pod.created_at));
        told.limits(&group.stats, view.pod.config.resources.as_ref());
    }
    if let Some(network) = &pod.network {
        told.at = network.at;
        network.default_interface.iter().chain(&network.interfaces).for_each(|one| told.interface(one));
    }
    // One that went away meanwhile is not told of.
    let containers = pod.containers.iter().filter_map(|metrics| {
        let status = view.container(&metrics.container)?;
        Some(container(view, status, metrics, all))
    });
    v1::PodSandboxMetrics {
        pod_sandbox_id: view.pod.id.to_string(),
        metrics: told.metrics,
        container_metrics: containers.collect(),
    }
}

fn container(
    view: &PodView,
    status: &ContainerStatus,
    metrics: &ContainerMetrics,
    all: &Metrics,
) -> v1::ContainerMetrics {
    let image = &status.config.image;
    let image =
        if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image };
    let identity = &view.pod.config.identity;
    let whose =
        [&status.cgroup, status.id.as_str(), image, &identity.namespace, &identity.name, &status.config.name];
    let mut told = Told::new(whose, all);
    told.at = metrics.group.at;
    told.group(&metrics.group);
    if let ContainerPhase::Running { started_at, .. } = status.phase {
        told.put(&START_TIME, &[], seconds_since_epoch(started_at));
    }
    told.limits(&metrics.group.stats, Some(&status.resources));
    told.processes(&metrics.processes);
    if let Some(disk) = &all.disk {
        told.disk(disk, metrics.layer.as_ref());
    }
    v1::ContainerMetrics { container_id: status.id.to_string(), metrics: told.metrics }
}

/// The metrics of one pod or container so far.
struct Told<'a> {
    whose: [&'a str; LABELS.len()],
    all: &'a Metrics,
    at: UnixNanos,
    metrics: Vec<v1::Metric>,
}

impl<'a> Told<'a> {
    fn new(whose: [&'a str; LABELS.len()], all: &'a Metrics) -> Self {
        Self { whose, all, at: 0, metrics: Vec::with_capacity(ALL.len() + 16) }
    }

    fn put(&mut self, descriptor: &Descriptor, own: &[&str], value: impl Into<Option<u64>>) {
        let Some(value) = value.into() else { return };
        debug_assert_eq!(own.len(), descriptor.own_labels.len(), "{}", descriptor.name);
        self.metrics.push(v1::Metric {
            name: descriptor.name.to_owned(),
            timestamp: self.at,
            metric_type: descriptor.kind.into(),
            label_values: self.whose.iter().chain(own).map(|label| (*label).to_owned()).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }

    fn group(&mut self, group: &GroupMetrics) {
        let stats = &group.stats;
        self.put(&LAST_SEEN, &[], seconds_since_epoch(group.at));
        self.cpu(&stats.cpu);
        self.memory(&stats.memory);
        for pages in &stats.hugepages {
            self.put(&HUGETLB_USAGE, &[&pages.page_size], pages.usage);
            self.put(&HUGETLB_MAX_USAGE, &[&pages.page_size], pages.peak);
        }
        stats.io.iter().for_each(|io| self.device(io));
        self.pressure(&PRESSURE_CPU_STALLED, &PRESSURE_CPU_WAITING, stats.cpu_pressure.as_ref());
        self.pressure(&PRESSURE_MEMORY_STALLED, &PRESSURE_MEMORY_WAITING, stats.memory_pressure.as_ref());
        self.pressure(&PRESSURE_IO_STALLED, &PRESSURE_IO_WAITING, stats.io_pressure.as_ref());
        self.put(&THREADS, &[], stats.pids);
        // Not known and not limited are the same file's silence: with the controller there is a count.
        self.put(&THREADS_MAX, &[], stats.pids.map(|_| stats.pids_max.unwrap_or_default()));
    }

    fn cpu(&mut self, cpu: &CpuStats) {
        let seconds = |ns: Option<u64>| ns.map(|ns| rounded(ns, NS_PER_SECOND));
        self.put(&CPU_USER, &[], seconds(cpu.user_ns));
        self.put(&CPU_SYSTEM, &[], seconds(cpu.system_ns));
        // cAdvisor's label, with the value that it has where CPUs are not told apart.
        self.put(&CPU_USAGE, &["total"], seconds(cpu.usage_ns));
        // Periods pass where there is a quota; without one cAdvisor tells none either.
        if let Some(periods) = cpu.periods.filter(|periods| *periods > 0) {
            self.put(&CFS_PERIODS, &[], periods);
            self.put(&CFS_THROTTLED_PERIODS, &[], cpu.throttled_periods);
            self.put(&CFS_THROTTLED, &[], seconds(cpu.throttled_ns));
        }
    }

    fn memory(&mut self, memory: &MemoryStats) {
        self.put(&MEMORY_CACHE, &[], memory.cache);
        self.put(&MEMORY_RSS, &[], memory.rss);
        self.put(&MEMORY_KERNEL, &[], memory.kernel);
        self.put(&MEMORY_MAPPED_FILE, &[], memory.mapped_file);
        self.put(&MEMORY_SWAP, &[], memory.swap);
        self.put(&MEMORY_FAILCNT, &[], memory.limit_hits);
        self.put(&MEMORY_USAGE, &[], memory.usage);
        self.put(&MEMORY_MAX_USAGE, &[], memory.peak);
        self.put(&MEMORY_WORKING_SET, &[], memory.working_set);
        self.put(&MEMORY_ACTIVE_FILE, &[], memory.active_file);
        self.put(&MEMORY_INACTIVE_FILE, &[], memory.inactive_file);
        // v2 counts groups below with each, as cAdvisor then tells in both scopes.
        let own = memory.own_page_faults.or(memory.page_faults);
        let own_major = memory.own_major_page_faults.or(memory.major_page_faults);
        self.put(&MEMORY_FAILURES, &["pgfault", "container"], own);
        self.put(&MEMORY_FAILURES, &["pgmajfault", "container"], own_major);
        self.put(&MEMORY_FAILURES, &["pgfault", "hierarchy"], memory.page_faults);
        self.put(&MEMORY_FAILURES, &["pgmajfault", "hierarchy"], memory.major_page_faults);
        self.put(&OOM_EVENTS, &[], memory.oom_kills);
    }

    fn device(&mut self, io: &DeviceIo) {
        let all = self.all;
        let device = all.devices.get(&(io.major, io.minor)).map_or("", String::as_str);
        self.put(&FS_READ_BYTES, &[device], io.read_bytes);
        self.put(&FS_READS, &[device], io.reads);
        self.put(&FS_WRITTEN_BYTES, &[device], io.write_bytes);
        self.put(&FS_WRITES, &[device], io.writes);
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        let all = io.read_bytes.saturating_add(io.write_bytes).saturating_add(io.discard_bytes);
        for (operation, bytes) in [
            ("Read", Some(io.read_bytes)),
            ("Write", Some(io.write_bytes)),
            ("Discard", Some(io.discard_bytes)),
            ("Sync", io.sync_bytes),
            ("Async", io.async_bytes),
            // A sum is told by v1 alone.
            ("Total", io.sync_bytes.map(|_| all)),
        ] {
            self.put(&BLKIO_USAGE, &[device, &major, &minor, operation], bytes);
        }
    }

    fn pressure(&mut self, stalled: &Descriptor, waiting: &Descriptor, pressure: Option<&Pressure>) {
        self.put(stalled, &[], pressure.map(|pressure| rounded(pressure.full.total_us, US_PER_SECOND)));
        self.put(waiting, &[], pressure.map(|pressure| rounded(pressure.some.total_us, US_PER_SECOND)));
    }

    fn limits(&mut self, stats: &CgroupStats, asked: Option<&Resources>) {
        let set = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        if let Some(asked) = asked {
            self.put(&SPEC_CPU_PERIOD, &[], set(asked.cpu_period).unwrap_or(CPU_PERIOD_DEFAULT));
            self.put(&SPEC_CPU_QUOTA, &[], set(asked.cpu_quota));
            self.put(&SPEC_CPU_SHARES, &[], set(asked.cpu_shares).unwrap_or(CPU_SHARES_DEFAULT));
            let protected = asked.unified.get("memory.low").and_then(|text| text.trim().parse().ok());
            self.put(&SPEC_MEMORY_RESERVATION, &[], protected.unwrap_or(0));
        }
        if stats.memory.usage.is_some() {
            self.put(&SPEC_MEMORY_LIMIT, &[], stats.memory.limit.unwrap_or_default());
            self.put(&SPEC_SWAP_LIMIT, &[], stats.memory.swap_limit.unwrap_or_default());
        }
    }

    fn processes(&mut self, processes: &Processes) {
        self.put(&PROCESSES, &[], processes.count);
        self.put(&FILE_DESCRIPTORS, &[], processes.files);
        self.put(&SOCKETS, &[], processes.sockets);
        self.put(&ULIMITS_SOFT, &["max_open_files"], processes.open_files_max);
    }

    fn disk(&mut self, disk: &Disk, layer: Option<&LayerUsage>) {
        self.put(&FS_LIMIT, &[&disk.device], disk.capacity.bytes);
        self.put(&FS_INODES_TOTAL, &[&disk.device], disk.capacity.inodes);
        self.put(&FS_INODES_FREE, &[&disk.device], disk.capacity.inodes_free);
        if let Some(layer) = layer {
            // It was measured a while ago.
            let read_at = std::mem::replace(&mut self.at, layer.at);
            self.put(&FS_USAGE, &[&disk.device], layer.bytes);
            self.at = read_at;
        }
    }

    fn interface(&mut self, interface: &InterfaceStats) {
        let name = [interface.name.as_str()];
        self.put(&RECEIVED_BYTES, &name, interface.rx_bytes);
        self.put(&RECEIVED_PACKETS, &name, interface.rx_packets);
        self.put(&RECEIVED_DROPPED, &name, interface.rx_dropped);
        self.put(&RECEIVED_ERRORS, &name, interface.rx_errors);
        self.put(&SENT_BYTES, &name, interface.tx_bytes);
        self.put(&SENT_PACKETS, &name, interface.tx_packets);
        self.put(&SENT_DROPPED, &name, interface.tx_dropped);
        self.put(&SENT_ERRORS, &name, interface.tx_errors);
    }
}

fn rounded(value: u64, unit: u64) -> u64 {
    value / unit + u64::from(value % unit >= unit / 2)
}

fn seconds_since_epoch(at: UnixNanos) -> u64 {
    u64::try_from(at).unwrap_or_default() / NS_PER_SECOND
}

#[cfg(test)]
mod tests;
