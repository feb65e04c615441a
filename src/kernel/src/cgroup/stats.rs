//! What a cgroup has used, from its files. A file or line that is not there is a `None`, never an error: which ones
//! there are depends on the kernel's version and configuration.

use std::collections::BTreeMap;
use std::fs;

use super::{Group, Hierarchy};

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
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Those that waited for a disk.
    pub major_page_faults: Option<u64>,
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

pub(super) fn read(group: &Group) -> CgroupStats {
    let files = Files(group);
    let mut stats = match group.hierarchy {
        Hierarchy::V1 { .. } => v1(&files),
        Hierarchy::V2 { .. } => v2(&files),
    };
    stats.pids = files.number("pids", "pids.current");
    stats.pids_max = files.number("pids", "pids.max");
    let memory = &mut stats.memory;
    memory.working_set =
        memory.usage.map(|usage| usage.saturating_sub(memory.inactive_file.unwrap_or_default()));
    stats
}

fn v1(files: &Files<'_>) -> CgroupStats {
    let throttling = files.map("cpu", "cpu.stat");
    let cpu = CpuStats {
        usage_ns: files.number("cpuacct", "cpuacct.usage"),
        user_ns: files.number("cpuacct", "cpuacct.usage_user"),
        system_ns: files.number("cpuacct", "cpuacct.usage_sys"),
        periods: throttling.get("nr_periods").copied(),
        throttled_periods: throttling.get("nr_throttled").copied(),
        throttled_ns: throttling.get("throttled_time").copied(),
    };
    let stat = files.map("memory", "memory.stat");
    let total = |name: &str| stat.get(&format!("total_{name}")).or_else(|| stat.get(name)).copied();
    let bounded = |file| files.number("memory", file).filter(|bytes| *bytes < V1_UNLIMITED_FROM);
    let usage = files.number("memory", "memory.usage_in_bytes");
    let sum = files.number("memory", "memory.memsw.usage_in_bytes");
    let limit = bounded("memory.limit_in_bytes");
    let memory = MemoryStats {
        usage,
        limit,
        peak: files.number("memory", "memory.max_usage_in_bytes"),
        working_set: None,
        rss: total("rss"),
        cache: total("cache"),
        mapped_file: total("mapped_file"),
        kernel: files.number("memory", "memory.kmem.usage_in_bytes"),
        active_file: total("active_file"),
        inactive_file: total("inactive_file"),
        page_faults: total("pgfault"),
        major_page_faults: total("pgmajfault"),
        // v1 counts memory and swap together.
        swap: sum.zip(usage).map(|(sum, usage)| sum.saturating_sub(usage)),
        swap_limit: bounded("memory.memsw.limit_in_bytes")
            .zip(limit)
            .map(|(sum, limit)| sum.saturating_sub(limit)),
        limit_hits: files.number("memory", "memory.failcnt"),
        oom_kills: files.map("memory", "memory.oom_control").get("oom_kill").copied(),
    };
    CgroupStats {
        cpu,
        memory,
        io: v1_io(files),
        hugepages: hugepages(files, false),
        ..CgroupStats::default()
    }
}

fn v2(files: &Files<'_>) -> CgroupStats {
    let stat = files.map("cpu", "cpu.stat");
    let ns = |name: &str| stat.get(name).map(|us| us.saturating_mul(1000));
    let cpu = CpuStats {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: stat.get("nr_periods").copied(),
        throttled_periods: stat.get("nr_throttled").copied(),
        throttled_ns: ns("throttled_usec"),
    };
    let stat = files.map("memory", "memory.stat");
    let events = files.map("memory", "memory.events");
    let of = |name: &str| stat.get(name).copied();
    let memory = MemoryStats {
        usage: files.number("memory", "memory.current"),
        limit: files.number("memory", "memory.max"),
        peak: files.number("memory", "memory.peak"),
        working_set: None,
        rss: of("anon"),
        cache: of("file"),
        mapped_file: of("file_mapped"),
        kernel: of("kernel").or_else(|| Some(of("kernel_stack")?.saturating_add(of("slab")?))),
        active_file: of("active_file"),
        inactive_file: of("inactive_file"),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        swap: files.number("memory", "memory.swap.current"),
        swap_limit: files.number("memory", "memory.swap.max"),
        limit_hits: events.get("max").copied(),
        oom_kills: events.get("oom_kill").copied(),
    };
    CgroupStats {
        cpu,
        memory,
        io: v2_io(files),
        hugepages: hugepages(files, true),
        cpu_pressure: files.pressure("cpu.pressure"),
        memory_pressure: files.pressure("memory.pressure"),
        io_pressure: files.pressure("io.pressure"),
        ..CgroupStats::default()
    }
}

/// Lines of `8:0 Read 4096` in one file for bytes and another for operations.
fn v1_io(files: &Files<'_>) -> Vec<DeviceIo> {
    let mut devices: BTreeMap<(u32, u32), DeviceIo> = BTreeMap::new();
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in files.text("blkio", file).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, operation, count] = words[..] else { continue };
            let (Some((major, minor)), Ok(count)) = (device_numbers(device), count.parse()) else { continue };
            let io = devices.entry((major, minor)).or_insert_with(|| DeviceIo {
                major,
                minor,
                ..DeviceIo::default()
            });
            match (operation, bytes) {
                ("Read", true) => io.read_bytes = count,
                ("Write", true) => io.write_bytes = count,
                ("Read", false) => io.reads = count,
                ("Write", false) => io.writes = count,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn v2_io(files: &Files<'_>) -> Vec<DeviceIo> {
    let text = files.text("io", "io.stat").unwrap_or_default();
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device_numbers(words.next()?)?;
        let values: BTreeMap<&str, u64> = words
            .filter_map(|word| word.split_once('='))
            .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
            .collect();
        let of = |name| values.get(name).copied().unwrap_or_default();
        let io = DeviceIo {
            major,
            minor,
            read_bytes: of("rbytes"),
            write_bytes: of("wbytes"),
            reads: of("rios"),
            writes: of("wios"),
        };
        Some(io)
    };
    text.lines().filter_map(device).collect()
}

fn device_numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn hugepages(files: &Files<'_>, v2: bool) -> Vec<HugepageStats> {
    let (usage, peak) = if v2 { ("current", "") } else { ("usage_in_bytes", "max_usage_in_bytes") };
    let Some(directory) = files.0.directory("hugetlb") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // hugetlb.2MB.current, but not hugetlb.2MB.rsvd.current
        let Some(page_size) = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(usage)) else {
            continue;
        };
        let Some(page_size) = page_size.strip_suffix('.').filter(|size| !size.contains('.')) else {
            continue;
        };
        if let Some(usage) = files.number("hugetlb", &name) {
            let peak = files.number("hugetlb", &format!("hugetlb.{page_size}.{peak}"));
            found.push(HugepageStats { page_size: page_size.to_owned(), usage, peak });
        }
    }
    found.sort_by(|a, b| a.page_size.cmp(&b.page_size));
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

struct Files<'a>(&'a Group);

impl Files<'_> {
    fn text(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.0.directory(controller)?.join(file)).ok()
    }

    /// The number in a file; `max` is none.
    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file)?.trim().parse().ok()
    }

    /// Lines of `name number`.
    fn map(&self, controller: &str, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(controller, file).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.filter_map(|(name, number)| Some((name.to_owned(), number.trim().parse().ok()?))).collect()
    }

    /// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
    fn pressure(&self, file: &str) -> Option<Pressure> {
        let text = self.text("unified", file)?;
        let line = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
            let values: BTreeMap<&str, &str> =
                line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
            let share = |name| values.get(name).and_then(|text| text.parse().ok());
            Some(PressureLine {
                avg10: share("avg10")?,
                avg60: share("avg60")?,
                avg300: share("avg300")?,
                total_us: values.get("total")?.parse().ok()?,
            })
        };
        // Kernels before 5.13 have no `full` line for CPU.
        Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
    }
}
