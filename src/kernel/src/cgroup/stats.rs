//! What a cgroup has used, from its files. A file or line that is not there is a `None`, never an error: which ones
//! there are depends on the kernel's version and configuration.

use std::collections::BTreeMap;

use super::Hierarchy;
use super::reader::{Extent, Reader};

/// v1 writes "unlimited" as the greatest number of pages below 2^63 bytes; page sizes differ.
const V1_UNLIMITED_FROM: u64 = (1 << 63) - (1 << 20);

/// What a cgroup has used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupStats {
    /// CPU time.
    pub cpu: CpuStats,
    /// Memory and swap.
    pub memory: MemoryStats,
    /// Tasks now.
    pub pids: Option<u64>,
    /// The most tasks allowed; `None`: unlimited.
    pub pids_max: Option<u64>,
    /// Block I/O by device.
    pub io: Vec<DeviceIo>,
    /// Huge pages by size.
    pub hugepages: Vec<HugepageStats>,
    /// Pressure stall information on CPU (v2).
    pub cpu_pressure: Option<Pressure>,
    /// Pressure stall information on memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// Pressure stall information on I/O (v2).
    pub io_pressure: Option<Pressure>,
}

/// CPU time, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All of it.
    pub usage_ns: Option<u64>,
    /// In user mode.
    pub user_ns: Option<u64>,
    /// In the kernel.
    pub system_ns: Option<u64>,
    /// CFS periods that have passed with something to run.
    pub periods: Option<u64>,
    /// Those in which the quota ran out.
    pub throttled_periods: Option<u64>,
    /// Time that was waited for a quota.
    pub throttled_ns: Option<u64>,
}

/// Memory, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All of it, page cache included.
    pub usage: Option<u64>,
    /// The limit; `None`: unlimited.
    pub limit: Option<u64>,
    /// The most that was used at once.
    pub peak: Option<u64>,
    /// What cannot be taken back without harm: usage less the inactive page cache.
    pub working_set: Option<u64>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// Page cache that is mapped.
    pub mapped_file: Option<u64>,
    /// Kernel memory.
    pub kernel: Option<u64>,
    /// Active page cache.
    pub active_file: Option<u64>,
    /// Inactive page cache.
    pub inactive_file: Option<u64>,
    /// Page faults, those in groups below too.
    pub page_faults: Option<u64>,
    /// Those that waited for a disk.
    pub major_page_faults: Option<u64>,
    /// Page faults in the group alone; v2 has no such count.
    pub own_page_faults: Option<u64>,
    /// Those that waited for a disk, in the group alone.
    pub own_major_page_faults: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// The limit on swap; `None`: unlimited.
    pub swap_limit: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Block I/O on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes discarded.
    pub discard_bytes: u64,
    /// Bytes read and written while somebody waited (v1).
    pub sync_bytes: Option<u64>,
    /// Bytes written with nobody waiting (v1).
    pub async_bytes: Option<u64>,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Huge pages of one size, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugepageStats {
    /// `2MB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The most in use at once (v1).
    pub peak: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks waited.
    pub some: PressureLine,
    /// All tasks waited.
    pub full: PressureLine,
}

/// Shares of time, in percent, and the time itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PressureLine {
    /// Over 10 seconds.
    pub avg10: f64,
    /// Over a minute.
    pub avg60: f64,
    /// Over five minutes.
    pub avg300: f64,
    /// All of it, microseconds.
    pub total_us: u64,
}

pub(super) fn read(files: &mut Reader, extent: Extent) -> CgroupStats {
    let everything = extent == Extent::Everything;
    let v2 = files.group().hierarchy.is_v2();
    let mut stats = CgroupStats {
        cpu: if v2 { v2_cpu(files) } else { v1_cpu(files, everything) },
        memory: if v2 { v2_memory(files, everything) } else { v1_memory(files, everything) },
        pids: number(files.text("pids", "pids.current")),
        ..CgroupStats::default()
    };
    let memory = &mut stats.memory;
    memory.working_set =
        memory.usage.map(|usage| usage.saturating_sub(memory.inactive_file.unwrap_or_default()));
    if v2 {
        stats.cpu_pressure = pressure(files.text("unified", "cpu.pressure"));
        stats.memory_pressure = pressure(files.text("unified", "memory.pressure"));
        stats.io_pressure = pressure(files.text("unified", "io.pressure"));
    }
    if everything {
        stats.pids_max = number(files.text("pids", "pids.max"));
        stats.io = if v2 { v2_io(files) } else { v1_io(files) };
        stats.hugepages = hugepages(files, v2);
    }
    stats
}

/// CPU time alone.
pub(super) fn cpu_ns(files: &mut Reader) -> Option<u64> {
    match files.group().hierarchy {
        Hierarchy::V1 { .. } => number(files.text("cpuacct", "cpuacct.usage")),
        Hierarchy::V2 { .. } => v2_cpu(files).usage_ns,
    }
}

/// A tick in which cgroup v1 tells user and system time: USER_HZ is 100 in every ABI that we are built for.
const TICK_NS: u64 = 10_000_000;

fn v1_cpu(files: &mut Reader, everything: bool) -> CpuStats {
    let usage_ns = number(files.text("cpuacct", "cpuacct.usage"));
    let mut cpu = CpuStats { usage_ns, ..CpuStats::default() };
    if !everything {
        return cpu;
    }
    // Not cpuacct.usage_user and usage_sys, which charge each slice to the mode that it happened to end in: this file is
    // what cAdvisor tells, and what the processes' own times add up to.
    for (name, ticks) in pairs(files.text("cpuacct", "cpuacct.stat")) {
        let ns = Some(ticks.saturating_mul(TICK_NS));
        match name {
            "user" => cpu.user_ns = ns,
            "system" => cpu.system_ns = ns,
            _ => {}
        }
    }
    for (name, value) in pairs(files.text("cpu", "cpu.stat")) {
        match name {
            "nr_periods" => cpu.periods = Some(value),
            "nr_throttled" => cpu.throttled_periods = Some(value),
            "throttled_time" => cpu.throttled_ns = Some(value),
            _ => {}
        }
    }
    cpu
}

fn v2_cpu(files: &mut Reader) -> CpuStats {
    let mut cpu = CpuStats::default();
    for (name, value) in pairs(files.text("cpu", "cpu.stat")) {
        let ns = Some(value.saturating_mul(1000));
        match name {
            "usage_usec" => cpu.usage_ns = ns,
            "user_usec" => cpu.user_ns = ns,
            "system_usec" => cpu.system_ns = ns,
            "nr_periods" => cpu.periods = Some(value),
            "nr_throttled" => cpu.throttled_periods = Some(value),
            "throttled_usec" => cpu.throttled_ns = ns,
            _ => {}
        }
    }
    cpu
}

fn v1_memory(files: &mut Reader, everything: bool) -> MemoryStats {
    let mut memory = MemoryStats::default();
    let mut own = MemoryStats::default();
    for (name, value) in pairs(files.text("memory", "memory.stat")) {
        let (memory, name) = match name.strip_prefix("total_") {
            Some(name) => (&mut memory, name),
            None => (&mut own, name),
        };
        let field = match name {
            "rss" => &mut memory.rss,
            "cache" => &mut memory.cache,
            "mapped_file" => &mut memory.mapped_file,
            "active_file" => &mut memory.active_file,
            "inactive_file" => &mut memory.inactive_file,
            "pgfault" => &mut memory.page_faults,
            "pgmajfault" => &mut memory.major_page_faults,
            _ => continue,
        };
        *field = Some(value);
    }
    (memory.own_page_faults, memory.own_major_page_faults) = (own.page_faults, own.major_page_faults);
    let bounded = |bytes: Option<u64>| bytes.filter(|bytes| *bytes < V1_UNLIMITED_FROM);
    let usage = number(files.text("memory", "memory.usage_in_bytes"));
    let sum = number(files.text("memory", "memory.memsw.usage_in_bytes"));
    let limit = bounded(number(files.text("memory", "memory.limit_in_bytes")));
    let sum_limit = bounded(number(files.text("memory", "memory.memsw.limit_in_bytes")));
    memory.usage = usage;
    memory.limit = limit;
    // v1 counts memory and swap together.
    memory.swap = sum.zip(usage).map(|(sum, usage)| sum.saturating_sub(usage));
    memory.swap_limit = sum_limit.zip(limit).map(|(sum, limit)| sum.saturating_sub(limit));
    if everything {
        memory.peak = number(files.text("memory", "memory.max_usage_in_bytes"));
        memory.kernel = number(files.text("memory", "memory.kmem.usage_in_bytes"));
        memory.limit_hits = number(files.text("memory", "memory.failcnt"));
        let mut control = pairs(files.text("memory", "memory.oom_control"));
        memory.oom_kills = control.find(|(name, _)| *name == "oom_kill").map(|(_, count)| count);
    }
    memory
}

fn v2_memory(files: &mut Reader, everything: bool) -> MemoryStats {
    let mut memory = MemoryStats::default();
    let (mut stack, mut slab) = (None, None);
    for (name, value) in pairs(files.text("memory", "memory.stat")) {
        let field = match name {
            "anon" => &mut memory.rss,
            "file" => &mut memory.cache,
            "file_mapped" => &mut memory.mapped_file,
            "kernel" => &mut memory.kernel,
            "kernel_stack" => &mut stack,
            "slab" => &mut slab,
            "active_file" => &mut memory.active_file,
            "inactive_file" => &mut memory.inactive_file,
            "pgfault" => &mut memory.page_faults,
            "pgmajfault" => &mut memory.major_page_faults,
            _ => continue,
        };
        *field = Some(value);
    }
    // `kernel` came with 5.18.
    memory.kernel = memory.kernel.or_else(|| Some(stack?.saturating_add(slab?)));
    memory.usage = number(files.text("memory", "memory.current"));
    memory.limit = number(files.text("memory", "memory.max"));
    memory.swap = number(files.text("memory", "memory.swap.current"));
    memory.swap_limit = number(files.text("memory", "memory.swap.max"));
    if everything {
        memory.peak = number(files.text("memory", "memory.peak"));
        for (name, value) in pairs(files.text("memory", "memory.events")) {
            match name {
                "max" => memory.limit_hits = Some(value),
                "oom_kill" => memory.oom_kills = Some(value),
                _ => {}
            }
        }
    }
    memory
}

/// Lines of `8:0 Read 4096` in one file for bytes and another for operations.
fn v1_io(files: &mut Reader) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in files.text("blkio", file).unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(device), Some(operation), Some(count)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let (Some((major, minor)), Ok(count)) = (device_numbers(device), count.parse()) else { continue };
            let io = devices.entry((major, minor)).or_insert_with(|| DeviceIo {
                major,
                minor,
                ..DeviceIo::default()
            });
            match (operation, bytes) {
                ("Read", true) => io.read_bytes = count,
                ("Write", true) => io.write_bytes = count,
                ("Discard", true) => io.discard_bytes = count,
                ("Sync", true) => io.sync_bytes = Some(count),
                ("Async", true) => io.async_bytes = Some(count),
                ("Read", false) => io.reads = count,
                ("Write", false) => io.writes = count,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn v2_io(files: &mut Reader) -> Vec<DeviceIo> {
    let device = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = device_numbers(words.next()?)?;
        let mut io = DeviceIo { major, minor, ..DeviceIo::default() };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let field = match name {
                "rbytes" => &mut io.read_bytes,
                "wbytes" => &mut io.write_bytes,
                "dbytes" => &mut io.discard_bytes,
                "rios" => &mut io.reads,
                "wios" => &mut io.writes,
                _ => continue,
            };
            *field = value.parse().unwrap_or_default();
        }
        Some(io)
    };
    files.text("io", "io.stat").unwrap_or_default().lines().filter_map(device).collect()
}

fn device_numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn hugepages(files: &mut Reader, v2: bool) -> Vec<HugepageStats> {
    let suffix = if v2 { "current" } else { "usage_in_bytes" };
    let mut found = Vec::new();
    for page_size in files.page_sizes(suffix) {
        let usage = number(files.text("hugetlb", format!("hugetlb.{page_size}.{suffix}")));
        let peak = match v2 {
            true => None,
            false => number(files.text("hugetlb", format!("hugetlb.{page_size}.max_usage_in_bytes"))),
        };
        if let Some(usage) = usage {
            found.push(HugepageStats { page_size, usage, peak });
        }
    }
    found
}

/// `2MB` for `hugepages-2048kB`, as the cgroup files are named (mm/hugetlb_cgroup.c).
pub(super) fn hugepage_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

/// The number in a file; `max` is none.
fn number(text: Option<&str>) -> Option<u64> {
    text?.trim().parse().ok()
}

/// Lines of `name number`.
fn pairs(text: Option<&str>) -> impl Iterator<Item = (&str, u64)> {
    let pairs = text.unwrap_or_default().lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, number)| Some((name, number.trim().parse().ok()?)))
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn pressure(text: Option<&str>) -> Option<Pressure> {
    let text = text?;
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut found = PressureLine::default();
        for (name, value) in line.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => found.avg10 = value.parse().ok()?,
                "avg60" => found.avg60 = value.parse().ok()?,
                "avg300" => found.avg300 = value.parse().ok()?,
                "total" => found.total_us = value.parse().ok()?,
                _ => {}
            }
        }
        Some(found)
    };
    // Kernels before 5.13 have no `full` line for CPU.
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}
