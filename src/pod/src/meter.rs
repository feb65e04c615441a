//! The cgroups that are measured again and again: their open files, and what each had used a while ago, from which
//! its CPU rate follows.
//!
//! A sample is taken of every group each [`SAMPLE_PERIOD`], whoever asks. A reading tells the rate from a sample to
//! itself, so two clients never spoil each other's: its age is the reading's timestamp, its width one to twenty
//! seconds.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kernel::cgroup::{CgroupStats, Extent, Group, Reader};
use kernel::clock::now;
use model::UnixNanos;
use model::limits::CGROUPS_KEPT_OPEN_MAX;
use tracing::warn;

/// How often each group's CPU time is written down.
pub(crate) const SAMPLE_PERIOD: Duration = Duration::from_secs(10);
/// The narrowest window that a rate is told of, where there is a choice.
const WINDOW_WANTED: Duration = Duration::from_secs(1);
/// The narrowest at all: below it a rate tells more of the scheduler's ticks than of the container.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// Files and directories of one group that stay open, at most: v1's nineteen and six, v2's sixteen and one; more where
/// there are many sizes of huge pages.
const OPEN_FILES_PER_GROUP: usize = 32;
const NS_PER_SECOND: u128 = 1_000_000_000;

/// Every group that is measured, by its path.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    groups: Mutex<HashMap<String, Arc<Mutex<Metered>>>>,
    /// What writable layers lie on: a disk does not change while it is used.
    device: OnceLock<String>,
}

#[derive(Debug)]
struct Metered {
    reader: Reader,
    samples: Samples,
    /// Whether its last reading failed in part: that is told once.
    failing: bool,
}

/// What one look at a group gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    /// When.
    pub(crate) at: UnixNanos,
    /// What the kernel counts.
    pub(crate) stats: CgroupStats,
    /// CPU time per second, nanoseconds; `None` until there is a sample to compare with.
    pub(crate) cpu_nano_cores: Option<u64>,
    /// What could not be read, when the reading before this one could.
    pub(crate) newly_failed: Option<String>,
}

/// A group's CPU time at two moments, the later one last.
#[derive(Clone, Copy, Debug, Default)]
struct Samples([Option<(Instant, u64)>; 2]);

// === impl Meter ===

impl Meter {
    /// Reads a group; `None` when there is none of this path any more. `began` is when it was new and unused, where
    /// that is known. Blocks for the file reads.
    pub(crate) fn read(
        &self,
        path: &str,
        extent: Extent,
        began: Option<UnixNanos>,
        group: impl FnOnce() -> Group,
    ) -> Option<Measured> {
        let metered = self.metered(path, group);
        let mut metered = lock(&metered);
        let Some(reading) = metered.reader.read(extent) else {
            drop(metered);
            self.forget(path);
            return None;
        };
        let (at, instant) = (now(), Instant::now());
        let cpu_nano_cores = reading.stats.cpu.usage_ns.and_then(|cpu_ns| {
            let rate = metered.samples.rate(instant, cpu_ns);
            if metered.samples.is_empty() {
                metered.samples.add(instant, cpu_ns);
            }
            rate.or_else(|| since_began(began, at, cpu_ns))
        });
        let was_failing = std::mem::replace(&mut metered.failing, reading.failed.is_some());
        let newly_failed = reading.failed.filter(|_| !was_failing);
        Some(Measured { at, stats: reading.stats, cpu_nano_cores, newly_failed })
    }

    /// The processes of a group, at most `most`.
    pub(crate) fn processes(&self, path: &str, most: usize, group: impl FnOnce() -> Group) -> Vec<u32> {
        let metered = self.metered(path, group);
        // A list that cannot be read is of a group that is going away.
        lock(&metered).reader.processes(most).unwrap_or_default()
    }

    /// What the file system at a path lies on.
    pub(crate) fn device(&self, path: &Path) -> Option<String> {
        if self.device.get().is_none() {
            let source = kernel::disk::source(path);
            let source =
                source.inspect_err(|error| warn!(error = model::chain(error), "a disk's name")).ok()?;
            let _ = self.device.set(source);
        }
        self.device.get().cloned()
    }

    /// Writes down a group's CPU time.
    pub(crate) fn sample(&self, path: &str, group: impl FnOnce() -> Group) {
        let metered = self.metered(path, group);
        let mut metered = lock(&metered);
        match metered.reader.cpu_ns() {
            Some(cpu_ns) => metered.samples.add(Instant::now(), cpu_ns),
            None => {
                drop(metered);
                self.forget(path);
            }
        }
    }

    /// Forgets a group that is gone.
    pub(crate) fn forget(&self, path: &str) {
        lock(&self.groups).remove(path);
    }

    /// Forgets all groups but these.
    pub(crate) fn retain(&self, live: &HashSet<String>) {
        lock(&self.groups).retain(|path, _| live.contains(path));
    }

    fn metered(&self, path: &str, group: impl FnOnce() -> Group) -> Arc<Mutex<Metered>> {
        let mut groups = lock(&self.groups);
        if let Some(metered) = groups.get(path) {
            return Arc::clone(metered);
        }
        let keep = groups.len() < kept_max();
        let reader = Reader::new(group(), keep);
        let metered = Metered { reader, samples: Samples::default(), failing: false };
        Arc::clone(groups.entry(path.to_owned()).or_insert_with(|| Arc::new(Mutex::new(metered))))
    }
}

/// How many groups' files stay open: half of what the process may open is for the service's other work.
fn kept_max() -> usize {
    let files = usize::try_from(kernel::caps::open_files_max()).unwrap_or(usize::MAX);
    CGROUPS_KEPT_OPEN_MAX.min(files / 2 / OPEN_FILES_PER_GROUP)
}

/// Locks; what a panicking thread left behind are counters that the next reading replaces.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rate of a group that is too young for a sample.
fn since_began(began: Option<UnixNanos>, at: UnixNanos, cpu_ns: u64) -> Option<u64> {
    let age = Duration::from_nanos(u64::try_from(at.checked_sub(began?)?).ok()?);
    (WINDOW_MIN..2 * SAMPLE_PERIOD).contains(&age).then(|| per_second(cpu_ns, age))
}

fn per_second(ns: u64, window: Duration) -> u64 {
    u64::try_from(u128::from(ns) * NS_PER_SECOND / window.as_nanos().max(1)).unwrap_or(u64::MAX)
}

// === impl Samples ===

impl Samples {
    fn is_empty(&self) -> bool {
        self.0[1].is_none()
    }

    /// The CPU time per second, nanoseconds, from a sample to now: from the later one that is far enough away.
    fn rate(&self, at: Instant, cpu_ns: u64) -> Option<u64> {
        let [earlier, later] = self.0;
        let away = |sample: Option<(Instant, u64)>, wanted: Duration| {
            sample
                .map(|(then, used)| (at.saturating_duration_since(then), used))
                .filter(|(age, _)| *age >= wanted)
        };
        let (window, used) = away(later, WINDOW_WANTED)
            .or_else(|| away(earlier, WINDOW_WANTED))
            .or_else(|| away(later, WINDOW_MIN))?;
        // Less than before is another group of the same name.
        Some(per_second(cpu_ns.checked_sub(used)?, window))
    }

    fn add(&mut self, at: Instant, cpu_ns: u64) {
        let later = self.0[1].filter(|(_, used)| *used <= cpu_ns);
        self.0 = [later, Some((at, cpu_ns))];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_a_window_whose_width_is_bounded() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut samples = Samples::default();
        assert_eq!(samples.rate(at(0), 5), None);
        samples.add(at(0), 1_000);
        // when, CPU time, the rate
        for (ms, cpu_ns, expect) in [
            (50, 2_000, None),
            (200, 100_001_000, Some(500_000_000)),
            (2_000, 500_001_000, Some(250_000_000)),
            (2_000, 999, None),
        ] {
            assert_eq!(samples.rate(at(ms), cpu_ns), expect, "{ms} {cpu_ns}");
        }
        // Asking changes nothing; the next sample does.
        samples.add(at(10_000), 1_000_001_000);
        assert_eq!(samples.rate(at(10_500), 1_050_001_000), Some(100_000_000), "from the first, 10.5 s wide");
        assert_eq!(samples.rate(at(12_000), 3_000_001_000), Some(1_000_000_000), "from the second");
        samples.add(at(20_000), 7);
        assert_eq!(
            samples.rate(at(20_500), 1_000_000_007),
            Some(2_000_000_000),
            "another group of that name"
        );
        samples.add(at(30_000), 7);
        assert_eq!(samples.rate(at(31_000), 7), Some(0));
    }

    #[test]
    fn a_young_group_is_measured_from_its_beginning() {
        const SECOND: i64 = 1_000_000_000;
        for (began, at, expect) in [
            (Some(10 * SECOND), 12 * SECOND, Some(500_000_000)),
            (Some(10 * SECOND), 10 * SECOND + 1, None),
            (Some(10 * SECOND), 31 * SECOND, None),
            (Some(10 * SECOND), 9 * SECOND, None),
            (None, 12 * SECOND, None),
        ] {
            assert_eq!(since_began(began, at, 1_000_000_000), expect, "{began:?} {at}");
        }
    }

    #[test]
    fn groups_that_are_gone_are_forgotten() {
        let Ok(hierarchy) = kernel::cgroup::Hierarchy::detect() else {
            println!("skipped: no cgroups are mounted");
            return;
        };
        let meter = Meter::default();
        let nowhere = || hierarchy.group("/gantline-test-nowhere");
        assert_eq!(meter.read("/gantline-test-nowhere", Extent::Usage, None, nowhere), None);
        meter.sample("/gantline-test-nowhere", nowhere);
        let root = meter.read("/", Extent::Everything, None, || hierarchy.group("/")).unwrap();
        assert!(root.stats.cpu.usage_ns.is_some() && root.newly_failed.is_none(), "{root:?}");
        let kept = |meter: &Meter| lock(&meter.groups).len();
        assert_eq!(kept(&meter), 1);
        meter.retain(&HashSet::new());
        assert_eq!(kept(&meter), 0);
    }
}
