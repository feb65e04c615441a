//! Measuring: percentiles, proportional memory, and the table that compares two services.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Idle before each operation: what a node sees, and what shows the kernel's waits.
pub const IDLE: Duration = Duration::from_millis(40);

/// Times of named operations, in the order in which they were first measured.
#[derive(Debug, Default)]
pub struct Times {
    order: Vec<&'static str>,
    milliseconds: BTreeMap<&'static str, Vec<f64>>,
}

impl Times {
    /// Idles, then runs and times one operation.
    pub fn time<T>(&mut self, operation: &'static str, work: impl FnOnce() -> T) -> T {
        std::thread::sleep(IDLE);
        let start = Instant::now();
        let value = work();
        self.add(operation, start.elapsed().as_secs_f64() * 1000.0);
        value
    }

    fn add(&mut self, operation: &'static str, milliseconds: f64) {
        if !self.order.contains(&operation) {
            self.order.push(operation);
        }
        self.milliseconds.entry(operation).or_default().push(milliseconds);
    }

    /// The operations measured, in order.
    pub fn operations(&self) -> &[&'static str] {
        &self.order
    }

    /// The value below which `percent` of an operation's times lie, milliseconds; 0 when it was never
    /// measured.
    pub fn percentile(&self, operation: &str, percent: usize) -> f64 {
        let mut times = self.milliseconds.get(operation).cloned().unwrap_or_default();
        times.sort_by(f64::total_cmp);
        let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(rank).copied().unwrap_or(0.0)
    }
}

/// Proportional set size of a process, MiB: what it costs, shared pages divided among their users.
pub fn pss_mib(pid: u32) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) / 1024.0
}

/// What was measured of one service.
#[derive(Debug, Default)]
pub struct Measured {
    /// Operation times.
    pub times: Times,
    /// Throughputs, one list a round in the order of [`SESSIONS`](crate::throughput::SESSIONS), MiB/s.
    pub throughput: Vec<Vec<f64>>,
    /// PSS of the service with pods running, MiB.
    pub service_mib: f64,
    /// PSS of what a pod needs beside its containers, MiB.
    pub pod_mib: f64,
}

/// The table, Gantline before its peer; the ratio is of the medians, below 1 where Gantline is better.
pub fn table(ours: &Measured, peer: &Measured, peer_name: &str, pods: usize) -> String {
    let mut text = format!(
        "| operation (ms) | Gantline p50 | p95 | {peer_name} p50 | p95 | ratio of p50 |\n|---|---:|---:|---:|---:|---:|\n"
    );
    for operation in ours.times.operations() {
        let of = |measured: &Measured, percent| measured.times.percentile(operation, percent);
        let (our_median, their_median) = (of(ours, 50), of(peer, 50));
        let _ = writeln!(
            text,
            "| {operation} | {our_median:.1} | {:.1} | {their_median:.1} | {:.1} | {:.2} |",
            of(ours, 95),
            of(peer, 95),
            our_median / their_median,
        );
    }
    let _ = writeln!(
        text,
        "\n| memory (PSS, MiB) with {pods} pods | Gantline | {peer_name} | ratio |\n|---|---:|---:|---:|"
    );
    for (what, our, their) in [
        ("the service", ours.service_mib, peer.service_mib),
        ("per pod, beside its containers", ours.pod_mib, peer.pod_mib),
    ] {
        let _ = writeln!(text, "| {what} | {our:.2} | {their:.2} | {:.2} |", our / their);
    }
    text.push('\n');
    text.push_str(&throughput_table(ours, peer, peer_name));
    text
}

/// The medians of what sessions carried; the ratio is above 1 where Gantline is better.
pub fn throughput_table(ours: &Measured, peer: &Measured, peer_name: &str) -> String {
    let mut text =
        format!("| 1 GiB through (MiB/s) | Gantline | {peer_name} | ratio |\n|---|---:|---:|---:|\n");
    for (at, session) in crate::throughput::SESSIONS.iter().enumerate() {
        let median = |measured: &Measured| {
            let mut all: Vec<f64> =
                measured.throughput.iter().filter_map(|round| round.get(at)).copied().collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        let (our, their) = (median(ours), median(peer));
        let _ = writeln!(text, "| {session} | {our:.0} | {their:.0} | {:.2} |", our / their);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times = Times::default();
        for value in (1..=100).rev() {
            times.add("op", f64::from(value));
        }
        assert_eq!((times.percentile("op", 50), times.percentile("op", 95)), (50.0, 95.0));
        assert_eq!(times.percentile("other", 50), 0.0);
        times.add("one", 7.0);
        assert_eq!((times.percentile("one", 50), times.percentile("one", 95)), (7.0, 7.0));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(pss_mib(std::process::id()) > 0.1);
    }
}
