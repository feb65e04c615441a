//! Measuring: percentiles, proportional memory, and the table that compares two services.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::command::{command, run};
use crate::machine::unified;
use crate::programs::tool;

/// Idle before each operation: what a node sees, and what shows the kernel's waits.
pub const IDLE: Duration = Duration::from_millis(40);

/// What a benchmark is asked to do.
#[derive(Debug)]
pub struct Asked {
    /// The file that keeps the table (`--write FILE`).
    pub file: Option<String>,
    /// Only the part that its own flag names.
    pub part: bool,
}

/// Reads the arguments of the benchmark `program`, which has a flag of its own beside `--write FILE`, or none. Without root, or with other
/// arguments, it says so and ends the program.
#[allow(clippy::print_stderr)]
pub fn asked(program: &str, flag: Option<&str>) -> Asked {
    if !rustix::process::geteuid().is_root() {
        eprintln!("{program}: this needs root: pods are made of namespaces, mounts and cgroups");
        std::process::exit(1);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Asked { file: None, part: false },
        [only] if Some(only) == flag => Asked { file: None, part: true },
        ["--write", file] => Asked { file: Some(file.to_owned()), part: false },
        _ => {
            let flag = flag.map(|flag| format!("{flag} | ")).unwrap_or_default();
            eprintln!("{program}: usage: {program} [{flag}--write FILE]");
            std::process::exit(2);
        }
    }
}

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
        self.add(operation, start.elapsed());
        value
    }

    /// Adds what an operation took that was timed elsewhere.
    pub fn add(&mut self, operation: &'static str, took: Duration) {
        if !self.order.contains(&operation) {
            self.order.push(operation);
        }
        self.milliseconds.entry(operation).or_default().push(took.as_secs_f64() * 1000.0);
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

/// CPU time that a process has used, seconds, in the kernel's ticks of 10 ms (proc_pid_stat(5)).
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the last parenthesis may hold spaces; utime and stime are the 14th and 15th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// This machine and what is measured on it, in a sentence or two.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: String, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_string).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_string()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cgroups = if unified() { "v2" } else { "v1" };
    let runc = run(command(tool("runc")).arg("--version")).ok();
    let containerd = run(command(tool("containerd")).arg("--version")).ok();
    format!(
        "Machine: {cores} × {}, {} of memory, kernel {}, cgroup {cgroups}. {}, {}.",
        after(read("/proc/cpuinfo"), "model name"),
        after(read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        runc.lines().next().unwrap_or_default(),
        containerd.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
    )
}

/// Writes one part of a document whose parts each have a first line `<!-- name -->`; the others stay as they are.
///
/// # Panics
/// The file could not be written.
pub fn write_part(file: &str, name: &str, text: &str) {
    let before = std::fs::read_to_string(file).unwrap_or_default();
    std::fs::write(file, with_part(&before, name, text))
        .unwrap_or_else(|error| panic!("write {file}: {error}"));
}

fn with_part(document: &str, name: &str, text: &str) -> String {
    let mark = format!("<!-- {name} -->\n");
    let part = format!("{mark}{}\n", text.trim_end());
    match document.split_once(&mark) {
        Some((before, rest)) => {
            let after = rest.find("<!-- ").map_or(String::new(), |next| format!("\n{}", &rest[next..]));
            format!("{before}{part}{after}")
        }
        None => format!("{}\n\n{part}", document.trim_end()),
    }
}

/// A histogram as Prometheus's text has it: how many observations were at most as large as each bound.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// The buckets of a metric without further labels; none when it is not in the text.
    pub fn read(text: &str, metric: &str) -> Self {
        let prefix = format!("{metric}_bucket{{le=\"");
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.parse().ok()?))
        };
        Self(text.lines().filter_map(bucket).collect())
    }

    /// Adds what was observed between two readings of one metric.
    pub fn add_since(&mut self, now: &Self, before: &Self) {
        let count = |histogram: &Self, bound: f64| {
            histogram.0.iter().find(|(found, _)| *found == bound).map_or(0.0, |(_, count)| *count)
        };
        self.0 = now
            .0
            .iter()
            .map(|(bound, n)| (*bound, count(self, *bound) + n - count(before, *bound)))
            .collect();
    }

    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count as u64)
    }

    /// The value below which `percent` of the observations lie, taking them to be spread evenly within a bucket, as
    /// Prometheus's `histogram_quantile` does; what is beyond the last bound counts as that.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = self.count() as f64 * percent as f64 / 100.0;
        let mut below = (0.0, 0.0);
        for bucket in &self.0 {
            if bucket.1 >= rank && bucket.1 > below.1 {
                if bucket.0.is_infinite() {
                    break;
                }
                return below.0 + (bucket.0 - below.0) * (rank - below.1) / (bucket.1 - below.1);
            }
            below = *bucket;
        }
        below.0
    }
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
            times.add("op", Duration::from_millis(value));
        }
        assert_eq!((times.percentile("op", 50), times.percentile("op", 95)), (50.0, 95.0));
        assert_eq!(times.percentile("other", 50), 0.0);
        times.add("one", Duration::from_millis(7));
        assert_eq!((times.percentile("one", 50), times.percentile("one", 95)), (7.0, 7.0));
    }

    #[test]
    fn quantiles_are_interpolated_within_buckets() {
        let text = |a: u32, b: u32, c: u32, all: u32| {
            format!(
                "# TYPE x histogram\nx_bucket{{le=\"0.5\"}} {a}\nx_bucket{{le=\"1\"}} {b}\nx_bucket{{le=\"2\"}} {c}\n\
                 x_bucket{{le=\"+Inf\"}} {all}\nx_sum 3\nx_count {all}\nother_bucket{{le=\"1\"}} 9\n"
            )
        };
        let (before, after) =
            (Histogram::read(&text(1, 1, 1, 2), "x"), Histogram::read(&text(1, 11, 21, 22), "x"));
        let mut both = Histogram::default();
        assert_eq!((both.count(), both.percentile(50)), (0, 0.0));
        both.add_since(&after, &before);
        assert_eq!(both.count(), 20);
        assert_eq!((both.percentile(50), both.percentile(25), both.percentile(99)), (1.0, 0.75, 1.98));
        both.add_since(&after, &before);
        assert_eq!((both.count(), both.percentile(50)), (40, 1.0));
        // Beyond the last bound.
        let far = Histogram::read(&text(0, 0, 0, 4), "x");
        assert_eq!(far.percentile(50), 2.0);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        assert!(pss_mib(std::process::id()) > 0.1);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) || cpu_seconds(std::process::id()) == 0.0 {
            assert!(start.elapsed() < Duration::from_secs(20), "a busy loop uses time");
        }
    }

    #[test]
    fn a_part_of_a_document_is_written_and_the_others_stay() {
        let one = with_part("# Title\n", "one", "first\n");
        assert_eq!(one, "# Title\n\n<!-- one -->\nfirst\n");
        let two = with_part(&one, "two", "second");
        assert_eq!(two, "# Title\n\n<!-- one -->\nfirst\n\n<!-- two -->\nsecond\n");
        let again = with_part(&two, "one", "third\nline\n");
        assert_eq!(again, "# Title\n\n<!-- one -->\nthird\nline\n\n<!-- two -->\nsecond\n");
    }
}
