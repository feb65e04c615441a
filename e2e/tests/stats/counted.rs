//! The kernel's counters of a cgroup, and where our RPCs tell each.

use std::fs;
use std::path::{Path, PathBuf};

use api::v1;
use e2e::unified;

use crate::SECOND;

/// A counter in a cgroup file, and where our RPCs tell it.
pub(crate) struct Counted {
    controller: &'static str,
    pub(crate) file: &'static str,
    /// The line's first word; empty: the file is a number.
    pub(crate) key: &'static str,
    /// What one of the file is in the RPC's unit.
    scale: u64,
    pub(crate) stat: Option<fn(&v1::ContainerStats) -> Option<v1::UInt64Value>>,
    /// The metric, its own labels, and what one of it is in the RPC's unit.
    pub(crate) metric: Option<(&'static str, &'static [&'static str], u64)>,
}

const fn row(controller: &'static str, file: &'static str, key: &'static str) -> Counted {
    Counted { controller, file, key, scale: 1, stat: None, metric: None }
}

impl Counted {
    const fn scale(mut self, scale: u64) -> Self {
        self.scale = scale;
        self
    }

    const fn stat(mut self, stat: fn(&v1::ContainerStats) -> Option<v1::UInt64Value>) -> Self {
        self.stat = Some(stat);
        self
    }

    const fn metric(mut self, name: &'static str, own: &'static [&'static str]) -> Self {
        self.metric = Some((name, own, 1));
        self
    }

    const fn seconds(mut self, name: &'static str, own: &'static [&'static str]) -> Self {
        self.metric = Some((name, own, SECOND));
        self
    }

    /// What the kernel says now.
    pub(crate) fn read(&self, pid: u32) -> u64 {
        let text = fs::read_to_string(group(pid, self.controller).join(self.file)).unwrap();
        let number = match self.key {
            "" => text.trim().to_owned(),
            key => {
                let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
                line.unwrap_or("0").to_owned()
            }
        };
        number.parse::<u64>().unwrap() * self.scale
    }
}

fn cpu(stats: &v1::ContainerStats) -> Option<v1::UInt64Value> {
    stats.cpu.as_ref()?.usage_core_nano_seconds
}

fn memory(stats: &v1::ContainerStats) -> Option<v1::UInt64Value> {
    stats.memory.as_ref()?.usage_bytes
}

fn rss(stats: &v1::ContainerStats) -> Option<v1::UInt64Value> {
    stats.memory.as_ref()?.rss_bytes
}

fn faults(stats: &v1::ContainerStats) -> Option<v1::UInt64Value> {
    stats.memory.as_ref()?.page_faults
}

fn major_faults(stats: &v1::ContainerStats) -> Option<v1::UInt64Value> {
    stats.memory.as_ref()?.major_page_faults
}

pub(crate) fn counted() -> Vec<Counted> {
    if unified() {
        let stat = |key| row("memory", "memory.stat", key);
        return vec![
            row("cpu", "cpu.stat", "usage_usec")
                .scale(1000)
                .stat(cpu)
                .seconds("container_cpu_usage_seconds_total", &["total"]),
            row("cpu", "cpu.stat", "user_usec").scale(1000).seconds("container_cpu_user_seconds_total", &[]),
            row("cpu", "cpu.stat", "system_usec")
                .scale(1000)
                .seconds("container_cpu_system_seconds_total", &[]),
            row("cpu", "cpu.stat", "nr_periods").metric("container_cpu_cfs_periods_total", &[]),
            row("cpu", "cpu.stat", "nr_throttled").metric("container_cpu_cfs_throttled_periods_total", &[]),
            row("memory", "memory.current", "").stat(memory).metric("container_memory_usage_bytes", &[]),
            row("memory", "memory.peak", "").metric("container_memory_max_usage_bytes", &[]),
            row("memory", "memory.max", "").metric("container_spec_memory_limit_bytes", &[]),
            row("memory", "memory.events", "max").metric("container_memory_failcnt", &[]),
            row("memory", "memory.events", "oom_kill").metric("container_oom_events_total", &[]),
            stat("anon").stat(rss).metric("container_memory_rss", &[]),
            stat("file").metric("container_memory_cache", &[]),
            stat("file_mapped").metric("container_memory_mapped_file", &[]),
            stat("kernel").metric("container_memory_kernel_usage", &[]),
            stat("active_file").metric("container_memory_total_active_file_bytes", &[]),
            stat("inactive_file").metric("container_memory_total_inactive_file_bytes", &[]),
            stat("pgfault").stat(faults).metric("container_memory_failures_total", &["pgfault", "hierarchy"]),
            stat("pgmajfault")
                .stat(major_faults)
                .metric("container_memory_failures_total", &["pgmajfault", "container"]),
            row("pids", "pids.current", "").metric("container_threads", &[]),
        ];
    }
    let stat = |key| row("memory", "memory.stat", key);
    vec![
        row("cpuacct", "cpuacct.usage", "")
            .stat(cpu)
            .seconds("container_cpu_usage_seconds_total", &["total"]),
        // In ticks of 10 ms.
        row("cpuacct", "cpuacct.stat", "user")
            .scale(10_000_000)
            .seconds("container_cpu_user_seconds_total", &[]),
        row("cpuacct", "cpuacct.stat", "system")
            .scale(10_000_000)
            .seconds("container_cpu_system_seconds_total", &[]),
        row("cpu", "cpu.stat", "nr_periods").metric("container_cpu_cfs_periods_total", &[]),
        row("cpu", "cpu.stat", "nr_throttled").metric("container_cpu_cfs_throttled_periods_total", &[]),
        row("cpu", "cpu.stat", "throttled_time").seconds("container_cpu_cfs_throttled_seconds_total", &[]),
        row("memory", "memory.usage_in_bytes", "").stat(memory).metric("container_memory_usage_bytes", &[]),
        row("memory", "memory.max_usage_in_bytes", "").metric("container_memory_max_usage_bytes", &[]),
        row("memory", "memory.limit_in_bytes", "").metric("container_spec_memory_limit_bytes", &[]),
        row("memory", "memory.failcnt", "").metric("container_memory_failcnt", &[]),
        row("memory", "memory.oom_control", "oom_kill").metric("container_oom_events_total", &[]),
        row("memory", "memory.kmem.usage_in_bytes", "").metric("container_memory_kernel_usage", &[]),
        stat("total_rss").stat(rss).metric("container_memory_rss", &[]),
        stat("total_cache").metric("container_memory_cache", &[]),
        stat("total_mapped_file").metric("container_memory_mapped_file", &[]),
        stat("total_active_file").metric("container_memory_total_active_file_bytes", &[]),
        stat("total_inactive_file").metric("container_memory_total_inactive_file_bytes", &[]),
        stat("total_pgfault")
            .stat(faults)
            .metric("container_memory_failures_total", &["pgfault", "hierarchy"]),
        stat("total_pgmajfault")
            .stat(major_faults)
            .metric("container_memory_failures_total", &["pgmajfault", "hierarchy"]),
        stat("pgfault").metric("container_memory_failures_total", &["pgfault", "container"]),
        row("pids", "pids.current", "").metric("container_threads", &[]),
    ]
}

/// A process's cgroup under a controller, by the kernel's word.
pub(crate) fn group(pid: u32, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = if unified() {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| name == controller)
        };
        ours.then(|| path.trim_start_matches('/').to_owned())
    };
    let path = text.lines().find_map(path).unwrap_or_else(|| panic!("no {controller} in {text}"));
    let root = if unified() {
        PathBuf::from("/sys/fs/cgroup")
    } else {
        Path::new("/sys/fs/cgroup").join(controller)
    };
    root.join(path)
}
