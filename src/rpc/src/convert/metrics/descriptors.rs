//! The metrics of pods and containers by name: cAdvisor's, so that what reads a kubelet's /metrics/cadvisor goes on as
//! it is (ADR 116).

use api::v1;

/// The labels that every metric has, before its own.
pub(crate) const LABELS: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// What a metric is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: v1::MetricType,
    /// After [`LABELS`].
    pub(crate) own_labels: &'static [&'static str],
}

/// One line a metric: its constant, its kind, its name, its own labels, its help. All of them are in `ALL`, so none can
/// be told that is not described.
macro_rules! descriptors {
    ($($constant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(crate) const $constant: Descriptor = Descriptor {
            name: $name,
            help: $help,
            kind: v1::MetricType::$kind,
            own_labels: &[$($label),*],
        };)*
        /// Every metric, in the order of their groups.
        pub(crate) const ALL: &[Descriptor] = &[$($constant),*];
    };
}

descriptors! {
    CPU_USER Counter "container_cpu_user_seconds_total" [] "CPU time in user mode, in whole seconds.";
    CPU_SYSTEM Counter "container_cpu_system_seconds_total" [] "CPU time in the kernel, in whole seconds.";
    CPU_USAGE Counter "container_cpu_usage_seconds_total" ["cpu"] "CPU time, in whole seconds.";
    CFS_PERIODS Counter "container_cpu_cfs_periods_total" []
        "Periods of the CPU quota that passed with something to run.";
    CFS_THROTTLED_PERIODS Counter "container_cpu_cfs_throttled_periods_total" []
        "Periods in which the CPU quota ran out.";
    CFS_THROTTLED Counter "container_cpu_cfs_throttled_seconds_total" []
        "Time spent waiting for CPU quota, in whole seconds.";

    MEMORY_CACHE Gauge "container_memory_cache" [] "Page cache, in bytes.";
    MEMORY_RSS Gauge "container_memory_rss" [] "Anonymous memory, in bytes.";
    MEMORY_KERNEL Gauge "container_memory_kernel_usage" [] "Kernel memory, in bytes.";
    MEMORY_MAPPED_FILE Gauge "container_memory_mapped_file" [] "Page cache that is mapped, in bytes.";
    MEMORY_SWAP Gauge "container_memory_swap" [] "Swap in use, in bytes.";
    MEMORY_FAILCNT Counter "container_memory_failcnt" [] "How often the memory limit was met.";
    MEMORY_USAGE Gauge "container_memory_usage_bytes" [] "Memory in use, page cache included, in bytes.";
    MEMORY_MAX_USAGE Gauge "container_memory_max_usage_bytes" [] "The most memory in use at once, in bytes.";
    MEMORY_WORKING_SET Gauge "container_memory_working_set_bytes" []
        "Memory in use less the inactive page cache, in bytes.";
    MEMORY_ACTIVE_FILE Gauge "container_memory_total_active_file_bytes" [] "Active page cache, in bytes.";
    MEMORY_INACTIVE_FILE Gauge "container_memory_total_inactive_file_bytes" [] "Inactive page cache, in bytes.";
    MEMORY_FAILURES Counter "container_memory_failures_total" ["failure_type" "scope"]
        "Page faults: all (pgfault), and those that waited for a disk (pgmajfault).";
    OOM_EVENTS Counter "container_oom_events_total" [] "Processes that the kernel killed for want of memory.";

    HUGETLB_USAGE Gauge "container_hugetlb_usage_bytes" ["pagesize"] "Huge pages in use, in bytes.";
    HUGETLB_MAX_USAGE Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "The most huge pages in use at once, in bytes; cgroup v1 alone counts it.";

    FS_INODES_FREE Gauge "container_fs_inodes_free" ["device"]
        "Free inodes of the file system that the writable layer is on.";
    FS_INODES_TOTAL Gauge "container_fs_inodes_total" ["device"]
        "Inodes of the file system that the writable layer is on.";
    FS_LIMIT Gauge "container_fs_limit_bytes" ["device"]
        "Size of the file system that the writable layer is on, in bytes.";
    FS_USAGE Gauge "container_fs_usage_bytes" ["device"] "Size of the writable layer, in bytes.";
    FS_READ_BYTES Counter "container_fs_reads_bytes_total" ["device"] "Bytes read from a block device.";
    FS_READS Counter "container_fs_reads_total" ["device"] "Read operations on a block device.";
    FS_WRITTEN_BYTES Counter "container_fs_writes_bytes_total" ["device"] "Bytes written to a block device.";
    FS_WRITES Counter "container_fs_writes_total" ["device"] "Write operations on a block device.";
    BLKIO_USAGE Counter "container_blkio_device_usage_total" ["device" "major" "minor" "operation"]
        "Bytes moved to and from a block device, by operation.";

    RECEIVED_BYTES Counter "container_network_receive_bytes_total" ["interface"] "Bytes received.";
    RECEIVED_PACKETS Counter "container_network_receive_packets_total" ["interface"] "Packets received.";
    RECEIVED_DROPPED Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Packets received and dropped.";
    RECEIVED_ERRORS Counter "container_network_receive_errors_total" ["interface"]
        "Packets received with an error.";
    SENT_BYTES Counter "container_network_transmit_bytes_total" ["interface"] "Bytes sent.";
    SENT_PACKETS Counter "container_network_transmit_packets_total" ["interface"] "Packets sent.";
    SENT_DROPPED Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Packets dropped before they were sent.";
    SENT_ERRORS Counter "container_network_transmit_errors_total" ["interface"]
        "Packets that could not be sent.";

    PROCESSES Gauge "container_processes" [] "Processes.";
    FILE_DESCRIPTORS Gauge "container_file_descriptors" [] "Open file descriptors of all processes.";
    SOCKETS Gauge "container_sockets" [] "Open sockets of all processes.";
    THREADS Gauge "container_threads" [] "Threads.";
    THREADS_MAX Gauge "container_threads_max" [] "The most threads allowed; 0 is unlimited.";
    ULIMITS_SOFT Gauge "container_ulimits_soft" ["ulimit"]
        "Soft resource limits of the first process; an unlimited one is absent.";

    LAST_SEEN Gauge "container_last_seen" [] "When this was read, in seconds since the epoch.";
    START_TIME Gauge "container_start_time_seconds" [] "When it was started, in seconds since the epoch.";

    SPEC_CPU_PERIOD Gauge "container_spec_cpu_period" [] "Period of the CPU quota, in microseconds.";
    SPEC_CPU_QUOTA Gauge "container_spec_cpu_quota" []
        "CPU time allowed in each period, in microseconds; absent when unlimited.";
    SPEC_CPU_SHARES Gauge "container_spec_cpu_shares" [] "Weight among those who want the CPU.";
    SPEC_MEMORY_LIMIT Gauge "container_spec_memory_limit_bytes" [] "Memory limit, in bytes; 0 is unlimited.";
    SPEC_MEMORY_RESERVATION Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory that is protected from being taken back, in bytes.";
    SPEC_SWAP_LIMIT Gauge "container_spec_memory_swap_limit_bytes" []
        "Swap limit, memory not included, in bytes; 0 is none or unlimited.";

    PRESSURE_CPU_STALLED Counter "container_pressure_cpu_stalled_seconds_total" []
        "Time in which no task went on for want of CPU, in whole seconds.";
    PRESSURE_CPU_WAITING Counter "container_pressure_cpu_waiting_seconds_total" []
        "Time in which some task waited for CPU, in whole seconds.";
    PRESSURE_MEMORY_STALLED Counter "container_pressure_memory_stalled_seconds_total" []
        "Time in which no task went on for want of memory, in whole seconds.";
    PRESSURE_MEMORY_WAITING Counter "container_pressure_memory_waiting_seconds_total" []
        "Time in which some task waited for memory, in whole seconds.";
    PRESSURE_IO_STALLED Counter "container_pressure_io_stalled_seconds_total" []
        "Time in which no task went on for want of I/O, in whole seconds.";
    PRESSURE_IO_WAITING Counter "container_pressure_io_waiting_seconds_total" []
        "Time in which some task waited for I/O, in whole seconds.";
}

/// All of them, as CRI tells them: the same for as long as the service lives.
pub(crate) fn all() -> Vec<v1::MetricDescriptor> {
    let label_keys = |own: &[&str]| LABELS.iter().chain(own).map(|label| (*label).to_owned()).collect();
    let described = |descriptor: &Descriptor| v1::MetricDescriptor {
        name: descriptor.name.to_owned(),
        help: descriptor.help.to_owned(),
        label_keys: label_keys(descriptor.own_labels),
    };
    ALL.iter().map(described).collect()
}
