//! What a scrape brings up to date: numbers that others count, or that are counts of what is there at this moment. It
//! runs on the admin thread, one scrape at a time, and reads memory and files of /proc.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kernel::{caps, disk, process, procfs};
use pod::Overview;
use telemetry::Metrics;

use super::node::{Counts, Node};
use super::{Shown, status};

/// Our own open files that are counted one by one, at most, where the kernel does not tell their number.
const OPEN_FILES_LOOKED_AT_MAX: u64 = 0;

/// Brings the metrics up to date.
pub(super) fn collect(shown: &Shown) {
    let metrics = &shown.metrics;
    this_process(shown);
    if let Some(node) = shown.node.get() {
        let overview = node.pods.overview();
        rooms(node, metrics);
        pods(node, &overview, metrics);
        stages(&overview, metrics);
    }
}

fn this_process(shown: &Shown) {
    let (metrics, pid) = (&shown.metrics.node, std::process::id());
    metrics.process(procfs::own_cpu_time(), shown.started_at);
    metrics.resident_bytes.set(level(procfs::resident_bytes(pid).unwrap_or_default()));
    if let Some(files) = procfs::open_files(pid, OPEN_FILES_LOOKED_AT_MAX) {
        metrics.open_files.set(level(files.count));
    }
    metrics.open_files_max.set(level(caps::open_files_max()));
    if let Ok(table) = process::table() {
        metrics.processes_defunct.set(table.iter().filter(|process| process.zombie).count());
    }
}

fn rooms(node: &Node, metrics: &Metrics) {
    let (sessions, tokens) = node.streaming.levels();
    metrics.streaming_sessions.set(sessions);
    metrics.streaming_tokens.set(tokens);
    metrics.tasks.set(node.main.metrics().num_alive_tasks());
    metrics.images.set(node.images.list().len());
    metrics.image_bytes.set(level(node.images.usage().bytes));
    let counters = node.images.counters();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    metrics.pull_bytes.reach(read(&counters.pulled_bytes));
    metrics.pulls.reach("ok", read(&counters.pulls));
    metrics.pulls.reach("failed", read(&counters.pull_failures));
    metrics.layers.reach("pulled", read(&counters.layers_pulled));
    metrics.layers.reach("reused", read(&counters.layers_reused));
    metrics.registry_retries.reach(read(&counters.retries));
    metrics.node.pull_skipped_bytes.reach(read(&counters.skipped_bytes));
    metrics.node.pulls_in_progress.set(node.images.pulls_in_progress());
    metrics.node.writable_bytes.set(level(node.images.writable_usage().bytes));
    if let Ok(capacity) = disk::capacity(&node.root) {
        metrics.node.disk_size_bytes.set(level(capacity.bytes));
        metrics.node.disk_available_bytes.set(level(capacity.bytes_available));
        metrics.node.disk_inodes.set(level(capacity.inodes));
        metrics.node.disk_inodes_free.set(level(capacity.inodes_free));
    }
    for condition in status::conditions(&(node.conditions)()) {
        metrics.node.conditions.set(&condition.name, usize::from(condition.met));
    }
}

fn pods(node: &Node, overview: &Overview, metrics: &Metrics) {
    let views = node.pods.list();
    let counts = Counts::of(&views);
    metrics.pods.set("ready", counts.pods_ready);
    metrics.pods.set("not_ready", counts.pods_not_ready);
    metrics.containers.set("running", counts.containers_running);
    metrics.containers.set("other", counts.containers_other);
    let told = &metrics.node;
    told.shims.set(overview.shims.len());
    told.shims_lost.set(overview.shims_lost);
    told.shim_resident_bytes.set(level(status::resident(overview)));
    told.recovered_pods.set(overview.recovery.map_or(0, |recovery| recovery.pods));
    told.records_unreadable.set(overview.unreadable.len());
    told.cni_dels_owed.set(status::dels_owed(node).len());
    told.event_subscribers.set(overview.event_subscribers);
    told.event_overflows.reach(overview.event_overflows);
    let config = node.pods.config();
    for handler in config.handlers.keys() {
        told.handlers.set(handler, 1);
    }
    told.default_handler.set(&config.default_handler, 1);
}

/// Those that have ended are back at zero.
fn stages(overview: &Overview, metrics: &Metrics) {
    let known = metrics.stages.spent().into_iter().map(|(stage, _)| (stage, (0, Duration::ZERO)));
    let mut now: BTreeMap<&'static str, (usize, Duration)> = known.collect();
    for (stage, _) in &overview.stages {
        let (count, oldest) = now.entry(stage.stage).or_default();
        *count += 1;
        *oldest = (*oldest).max(stage.since.elapsed());
    }
    for (stage, (count, oldest)) in now {
        metrics.node.stages_under_way.set(stage, count);
        metrics.node.stage_oldest(stage, oldest);
    }
}

fn level(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
