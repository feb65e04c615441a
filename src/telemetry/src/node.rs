//! What the node's rooms are, beside what they do: levels that are set when a scraper asks, and counters of what goes
//! wrong. Each series of a label that takes values from a closed set is there from the start, at zero.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter as PlainCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::{Counter, CounterBy, Histograms, Level, LevelBy, observe, timings};

/// How containers end, in CRI's words.
const EXIT_REASONS: [&str; 5] = ["Completed", "Error", "OOMKilled", "StartError", "Unknown"];
/// Layers: 64 KiB, 256 KiB … 4 GiB.
const LAYER_BUCKETS: (f64, f64, u16) = (65_536.0, 4.0, 9);
/// One layer's way from registry to disk: 256 KiB/s, 512 KiB/s … 1 GiB/s.
const THROUGHPUT_BUCKETS: (f64, f64, u16) = (262_144.0, 2.0, 13);

/// Numbers about the node and about this process.
pub struct NodeMetrics {
    /// CRI's conditions, 1 when met: `RuntimeReady`, `NetworkReady`.
    pub conditions: LevelBy,
    /// Runtime handlers, 1 each; which one is the default stands in [`Self::default_handler`].
    pub handlers: LevelBy,
    /// The handler of pods that name none, 1.
    pub default_handler: LevelBy,
    /// Containers that ended, by CRI's reason.
    pub container_exits: CounterBy,
    /// Shims that the service is connected to.
    pub shims: Level,
    /// What they hold of memory, bytes.
    pub shim_resident_bytes: Level,
    /// Ready pods without a shim: nothing can be done in them until it is found again.
    pub shims_lost: Level,
    /// Who hears events.
    pub event_subscribers: Level,
    /// Subscriptions that were ended because their reader fell behind.
    pub event_overflows: Counter,
    /// DELs that are owed for pods that are no longer ready.
    pub cni_dels_owed: Level,
    /// Records of pods and containers that cannot be read.
    pub records_unreadable: Level,
    /// Requests that failed in the pod room.
    pub failures: Counter,
    /// Pods that the last start took over.
    pub recovered_pods: Level,
    /// Pulls under way.
    pub pulls_in_progress: Level,
    /// Compressed bytes that were not fetched because the layer was here.
    pub pull_skipped_bytes: Counter,
    /// What writable layers take on disk, bytes.
    pub writable_bytes: Level,
    /// The file system of the root directory, bytes.
    pub disk_size_bytes: Level,
    /// What is left of it for the service, bytes.
    pub disk_available_bytes: Level,
    /// Its inodes.
    pub disk_inodes: Level,
    /// Those that are free.
    pub disk_inodes_free: Level,
    /// Stages under way, by name.
    pub stages_under_way: LevelBy,
    /// Zombies on the node.
    pub processes_defunct: Level,
    /// This process's memory, bytes.
    pub resident_bytes: Level,
    /// Its open files.
    pub open_files: Level,
    /// How many it may have.
    pub open_files_max: Level,
    stage_oldest: Family<[(&'static str, String); 1], Gauge<f64, AtomicU64>>,
    cpu_seconds: PlainCounter<f64, AtomicU64>,
    start_time: Gauge<f64, AtomicU64>,
    commits: Histograms<StoreLabels>,
    layer_bytes: Histogram,
    layer_throughput: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: &'static str,
}

impl NodeMetrics {
    #[expect(clippy::too_many_lines, reason = "a list of metrics")]
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            conditions: LevelBy::new("condition"),
            handlers: LevelBy::new("handler"),
            default_handler: LevelBy::new("handler"),
            container_exits: CounterBy::new("reason"),
            shims: Level::default(),
            shim_resident_bytes: Level::default(),
            shims_lost: Level::default(),
            event_subscribers: Level::default(),
            event_overflows: Counter::default(),
            cni_dels_owed: Level::default(),
            records_unreadable: Level::default(),
            failures: Counter::default(),
            recovered_pods: Level::default(),
            pulls_in_progress: Level::default(),
            pull_skipped_bytes: Counter::default(),
            writable_bytes: Level::default(),
            disk_size_bytes: Level::default(),
            disk_available_bytes: Level::default(),
            disk_inodes: Level::default(),
            disk_inodes_free: Level::default(),
            stages_under_way: LevelBy::new("stage"),
            processes_defunct: Level::default(),
            resident_bytes: Level::default(),
            open_files: Level::default(),
            open_files_max: Level::default(),
            stage_oldest: Family::default(),
            cpu_seconds: PlainCounter::default(),
            start_time: Gauge::default(),
            commits: timings(),
            layer_bytes: histogram(LAYER_BUCKETS),
            layer_throughput: histogram(THROUGHPUT_BUCKETS),
        };
        for reason in EXIT_REASONS {
            metrics.container_exits.reach(reason, 0);
        }
        let mut level =
            |name: &str, help: &str, level: &Level| registry.register(name, help, level.0.clone());
        level("shims", "Shims that the service is connected to", &metrics.shims);
        level("shims_lost", "Ready pods whose shim is not connected", &metrics.shims_lost);
        level("event_subscribers", "Streams of events that are open", &metrics.event_subscribers);
        level("cni_dels_owed", "CNI DELs that are owed for pods that are not ready", &metrics.cni_dels_owed);
        level("records_unreadable", "Records that could not be read at start", &metrics.records_unreadable);
        level("recovered_pods", "Pods that the last start took over", &metrics.recovered_pods);
        level("pulls_in_progress", "Pulls under way", &metrics.pulls_in_progress);
        level("disk_inodes", "Inodes of the root directory's file system", &metrics.disk_inodes);
        level("disk_inodes_free", "Those that are free", &metrics.disk_inodes_free);
        level("processes_defunct", "Zombies on the node", &metrics.processes_defunct);
        level("process_open_fds", "Open files of the service", &metrics.open_files);
        level("process_max_fds", "How many files the service may open", &metrics.open_files_max);
        let mut bytes = |name: &str, help: &str, level: &Level| {
            registry.register_with_unit(name, help, Unit::Bytes, level.0.clone());
        };
        bytes("shim_resident_memory", "Memory of all shims", &metrics.shim_resident_bytes);
        bytes("writable", "What writable layers take on disk", &metrics.writable_bytes);
        bytes("disk_size", "The file system of the root directory", &metrics.disk_size_bytes);
        bytes("disk_available", "What is left of it", &metrics.disk_available_bytes);
        bytes("process_resident_memory", "Memory of the service", &metrics.resident_bytes);
        let mut by = |name: &str, help: &str, level: &LevelBy| registry.register(name, help, level.0.clone());
        by("condition", "1 while the condition of CRI's Status is met", &metrics.conditions);
        by("handler", "Runtime handlers that pods may name", &metrics.handlers);
        by("default_handler", "The runtime handler of pods that name none", &metrics.default_handler);
        by("stages_under_way", "Parts of CRI requests under way", &metrics.stages_under_way);
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.0.clone());
        };
        let overflows = "Streams of events that were ended because their reader fell behind";
        counter("event_overflows", overflows, &metrics.event_overflows);
        counter("failures", "Jobs of pods and containers that failed", &metrics.failures);
        registry.register(
            "container_exits",
            "Containers that ended, by CRI's reason",
            metrics.container_exits.0.clone(),
        );
        registry.register_with_unit(
            "pull_skipped",
            "Compressed layers that were not fetched, as they were here",
            Unit::Bytes,
            metrics.pull_skipped_bytes.0.clone(),
        );
        registry.register_with_unit(
            "stage_oldest",
            "How long the oldest stage under way has lasted",
            Unit::Seconds,
            metrics.stage_oldest.clone(),
        );
        registry.register_with_unit(
            "process_cpu",
            "CPU time of the service",
            Unit::Seconds,
            metrics.cpu_seconds.clone(),
        );
        registry.register_with_unit(
            "process_start_time",
            "When the service started, since 1970",
            Unit::Seconds,
            metrics.start_time.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Durable commits, until the disk has them",
            Unit::Seconds,
            metrics.commits.clone(),
        );
        registry.register_with_unit(
            "pull_layer",
            "Layers that were fetched, compressed",
            Unit::Bytes,
            metrics.layer_bytes.clone(),
        );
        registry.register_with_unit(
            "pull_layer_throughput",
            "Each layer's way from registry to disk",
            Unit::Other("bytes_per_second".to_owned()),
            metrics.layer_throughput.clone(),
        );
        metrics
    }

    /// A durable commit of `store` (`pod`, `image`, `network`) took so long.
    pub fn committed(&self, store: &'static str, took: Duration) {
        observe(&self.commits, &StoreLabels { store }, took, None);
    }

    /// A layer of so many compressed bytes was fetched and unpacked.
    #[expect(clippy::cast_precision_loss, reason = "for buckets")]
    pub fn layer_fetched(&self, bytes: u64, took: Duration) {
        self.layer_bytes.observe(bytes as f64);
        self.layer_throughput.observe(bytes as f64 / took.as_secs_f64().max(1e-6));
    }

    /// How long the oldest stage of this name has lasted; zero when there is none.
    pub fn stage_oldest(&self, stage: &'static str, age: Duration) {
        self.stage_oldest.get_or_create(&[("stage", stage.to_owned())]).set(age.as_secs_f64());
    }

    /// CPU time that this process has used, and when it started, seconds since 1970. Call it from one place.
    pub fn process(&self, cpu: Duration, started: f64) {
        self.cpu_seconds.inc_by((cpu.as_secs_f64() - self.cpu_seconds.get()).max(0.0));
        self.start_time.set(started);
    }
}

fn histogram((start, factor, count): (f64, f64, u16)) -> Histogram {
    Histogram::new(exponential_buckets(start, factor, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn what_is_set_is_what_a_scraper_reads() {
        let metrics = Metrics::new();
        let node = &metrics.node;
        node.conditions.set("RuntimeReady", 1);
        node.container_exits.increment("OOMKilled");
        node.committed("pod", Duration::from_micros(700));
        node.layer_fetched(1 << 20, Duration::from_secs(1));
        node.stage_oldest("cni_add", Duration::from_millis(1500));
        node.process(Duration::from_millis(250), 1_000.5);
        node.process(Duration::from_millis(750), 1_000.5);
        node.shim_resident_bytes.set(4096);
        node.cni_dels_owed.set(2);
        let text = metrics.encode(crate::Exposition::OpenMetrics);
        for line in [
            "gantline_condition{condition=\"RuntimeReady\"} 1",
            "gantline_container_exits_total{reason=\"OOMKilled\"} 1",
            "gantline_container_exits_total{reason=\"Completed\"} 0",
            "gantline_store_commit_duration_seconds_bucket{le=\"0.001\",store=\"pod\"} 1",
            "gantline_pull_layer_bytes_bucket{le=\"1048576.0\"} 1",
            "gantline_pull_layer_throughput_bytes_per_second_count 1",
            "gantline_stage_oldest_seconds{stage=\"cni_add\"} 1.5",
            "gantline_process_cpu_seconds_total 0.75",
            "gantline_process_start_time_seconds 1000.5",
            "gantline_shim_resident_memory_bytes 4096",
            "gantline_cni_dels_owed 2",
            "gantline_event_overflows_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
