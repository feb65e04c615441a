//! What is told is described, has the right labels, and is told once.

use std::collections::{BTreeMap, BTreeSet};

use pod::stats::{Capacity, HugepageStats, NetworkUsage, PressureLine};

use super::*;
use crate::convert::fixture::{AT, view};

/// Everything that a kernel can tell.
fn stats() -> CgroupStats {
    let pressure = || Pressure {
        some: PressureLine { total_us: 2_500_000, ..PressureLine::default() },
        full: PressureLine { total_us: 499_999, ..PressureLine::default() },
    };
    CgroupStats {
        cpu: CpuStats {
            usage_ns: Some(2_499_999_999),
            user_ns: Some(2_500_000_000),
            system_ns: Some(1),
            periods: Some(5),
            throttled_periods: Some(4),
            throttled_ns: Some(3_000_000_000),
        },
        memory: MemoryStats {
            usage: Some(100),
            peak: Some(101),
            working_set: Some(90),
            rss: Some(1),
            cache: Some(2),
            mapped_file: Some(3),
            kernel: Some(4),
            active_file: Some(5),
            inactive_file: Some(6),
            page_faults: Some(7),
            major_page_faults: Some(8),
            swap: Some(9),
            limit_hits: Some(10),
            oom_kills: Some(11),
            limit: Some(1000),
            ..MemoryStats::default()
        },
        pids: Some(3),
        io: vec![DeviceIo {
            major: 8,
            minor: 1,
            read_bytes: 10,
            write_bytes: 20,
            discard_bytes: 5,
            sync_bytes: Some(30),
            async_bytes: Some(5),
            reads: 1,
            writes: 2,
        }],
        hugepages: vec![HugepageStats { page_size: "2MB".into(), usage: 4, peak: Some(6) }],
        cpu_pressure: Some(pressure()),
        memory_pressure: Some(pressure()),
        io_pressure: Some(pressure()),
        pids_max: None,
    }
}

fn all(stats: CgroupStats) -> Metrics {
    let view = view();
    let group = GroupMetrics { at: AT, stats };
    let interface =
        |name: &str| InterfaceStats { name: name.into(), rx_bytes: 77, ..InterfaceStats::default() };
    let network = NetworkUsage::new(vec![interface("lo"), interface("eth0"), interface("net1")], None, AT);
    let processes = Processes { count: 2, files: 9, sockets: Some(1), open_files_max: Some(1024) };
    let layer = LayerUsage { at: AT - 9, mountpoint: "/".into(), bytes: 4096, inodes: 1 };
    Metrics {
        disk: Some(Disk {
            device: "/dev/vda".into(),
            capacity: Capacity { bytes: 1 << 40, bytes_available: 1 << 39, inodes: 100, inodes_free: 60 },
        }),
        devices: BTreeMap::from([((8, 1), "/dev/sda1".into())]),
        pods: vec![PodMetrics {
            pod: view.pod.id.clone(),
            group: Some(group.clone()),
            network: Some(network),
            containers: vec![ContainerMetrics {
                container: view.containers[0].id.clone(),
                group,
                processes,
                layer: Some(layer),
            }],
        }],
    }
}

fn told(stats: CgroupStats) -> v1::PodSandboxMetrics {
    let all = all(stats);
    pod(&view(), &all.pods[0], &all)
}

fn everything(told: &v1::PodSandboxMetrics) -> Vec<&v1::Metric> {
    told.metrics.iter().chain(told.container_metrics.iter().flat_map(|c| &c.metrics)).collect()
}

#[track_caller]
fn value(metrics: &[v1::Metric], name: &str, own: &[&str]) -> u64 {
    let mut found = metrics.iter().filter(|m| m.name == name && m.label_values[LABELS.len()..] == *own);
    let value = found.next().unwrap_or_else(|| panic!("no {name} {own:?}")).value.unwrap().value;
    assert!(found.next().is_none(), "two of {name}");
    value
}

#[test]
fn descriptors_are_all_that_can_be_told_and_no_more() {
    let described: BTreeMap<String, usize> =
        descriptors().into_iter().map(|d| (d.name, d.label_keys.len())).collect();
    assert_eq!(described.len(), ALL.len(), "each name once");
    assert!(ALL.iter().all(|descriptor| !descriptor.help.is_empty()));
    let told = told(stats());
    for metric in everything(&told) {
        assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{metric:?}");
    }
    let names: BTreeSet<&String> = everything(&told).iter().map(|m| &m.name).collect();
    assert_eq!(names, described.keys().collect(), "none is described that is never told");
}

#[test]
fn no_two_metrics_have_the_same_labels() {
    let told = told(stats());
    let series: BTreeSet<_> = everything(&told).iter().map(|m| (&m.name, &m.label_values)).collect();
    assert_eq!(series.len(), everything(&told).len());
}

#[test]
fn values_are_in_the_units_of_their_names() {
    let told = told(stats());
    let metrics = &told.container_metrics[0].metrics;
    for (name, own, expect) in [
        ("container_cpu_usage_seconds_total", &["total"][..], 2),
        ("container_cpu_user_seconds_total", &[], 3),
        ("container_cpu_system_seconds_total", &[], 0),
        ("container_cpu_cfs_throttled_seconds_total", &[], 3),
        ("container_pressure_cpu_waiting_seconds_total", &[], 3),
        ("container_pressure_io_stalled_seconds_total", &[], 0),
        ("container_start_time_seconds", &[], 1_699_999_995),
        ("container_last_seen", &[], 1_700_000_000),
        ("container_memory_failures_total", &["pgmajfault", "container"], 8),
        ("container_blkio_device_usage_total", &["/dev/sda1", "8", "1", "Total"], 35),
        ("container_fs_reads_bytes_total", &["/dev/sda1"], 10),
        ("container_fs_usage_bytes", &["/dev/vda"], 4096),
        ("container_spec_cpu_period", &[], 100_000),
        ("container_spec_cpu_quota", &[], 20_000),
        ("container_spec_cpu_shares", &[], 512),
        ("container_spec_memory_limit_bytes", &[], 1000),
        ("container_spec_memory_swap_limit_bytes", &[], 0),
        ("container_threads_max", &[], 0),
        ("container_ulimits_soft", &["max_open_files"], 1024),
        ("container_hugetlb_max_usage_bytes", &["2MB"], 6),
    ] {
        assert_eq!(value(metrics, name, own), expect, "{name}");
    }
    assert_eq!(value(&told.metrics, "container_network_receive_bytes_total", &["net1"]), 77);
    let usage = metrics.iter().find(|m| m.name == "container_fs_usage_bytes").unwrap();
    assert_eq!(usage.timestamp, AT - 9, "when the layer was measured");
}

#[test]
fn labels_say_whose_it_is() {
    let told = told(stats());
    let id = |n: u8| format!("{n:02x}").repeat(32);
    let [pod, app] = [&told.metrics[0], &told.container_metrics[0].metrics[0]].map(|m| &m.label_values);
    assert_eq!(pod, &["/kubepods/podu", &id(1), "", "shop", "web", ""]);
    assert_eq!(app, &["/kubepods/podu/c", &id(2), "bb:1", "shop", "web", "app"]);
}

#[test]
fn what_the_kernel_does_not_tell_is_not_told() {
    let told = told(CgroupStats::default());
    for absent in ["cpu", "memory", "hugetlb", "blkio", "pressure", "threads", "fs_reads"] {
        let name = format!("container_{absent}");
        assert!(!everything(&told).iter().any(|m| m.name.starts_with(&name)), "{name}");
    }
    // What does not come from the cgroup is there all the same.
    assert!(everything(&told).iter().any(|m| m.name == "container_processes"));
}
