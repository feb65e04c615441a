//! The parts of requests: how long each took, and which are under way at this moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::{Histograms, duration_histogram};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

/// How long the parts of requests take: `netns`, `cni_add`, `shim_start`, `snapshot`, `oci_run`,
/// `pull_layers` …
#[derive(Clone)]
pub struct Stages {
    durations: Histograms<StageLabels>,
    under_way: Arc<Mutex<UnderWay>>,
    spent: Arc<Mutex<BTreeMap<&'static str, Spent>>>,
}

/// What a stage has cost since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How often it was passed.
    pub count: u64,
    /// All of it.
    pub total: Duration,
    /// The one that took longest.
    pub slowest: Duration,
}

#[derive(Default)]
struct UnderWay {
    next: u64,
    stages: BTreeMap<u64, StageNow>,
}

/// A stage that has begun and not ended.
#[derive(Clone, Debug)]
pub struct StageNow {
    /// Its name, as in the metrics.
    pub stage: &'static str,
    /// Whose it is: an id, as [`Stages::time_of`] was told.
    pub subject: String,
    /// When it began.
    pub since: Instant,
}

impl Stages {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let durations = Histograms::new_with_constructor(duration_histogram as fn() -> Histogram);
        registry.register_with_unit(
            "stage_duration",
            "Parts of CRI requests, failed ones too",
            Unit::Seconds,
            durations.clone(),
        );
        Self { durations, under_way: Arc::default(), spent: Arc::default() }
    }

    /// Times a stage of `subject` until the returned guard is dropped, and shows it as under way meanwhile.
    pub fn time_of(&self, stage: &'static str, subject: impl Into<String>) -> Timer {
        let since = Instant::now();
        let mut under_way = self.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.stages.insert(number, StageNow { stage, subject: subject.into(), since });
        drop(under_way);
        Timer { stages: self.clone(), stage, number, since }
    }

    /// Notes a stage that was timed elsewhere.
    pub fn observe(&self, stage: &'static str, duration: Duration) {
        self.durations.get_or_create(&StageLabels { stage }).observe(duration.as_secs_f64());
        // Three additions: a panic elsewhere leaves it whole.
        let mut all = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = all.entry(stage).or_default();
        spent.count += 1;
        spent.total += duration;
        spent.slowest = spent.slowest.max(duration);
    }

    /// What each stage has cost so far, by name.
    pub fn spent(&self) -> Vec<(&'static str, Spent)> {
        let all = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(stage, spent)| (*stage, *spent)).collect()
    }

    /// What is under way, the oldest first.
    pub fn under_way(&self) -> Vec<StageNow> {
        self.lock().stages.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        // Each change is one insertion or removal: a panic elsewhere leaves it whole.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stage under way; dropping it ends the stage.
#[must_use = "the stage ends when this is dropped"]
pub struct Timer {
    stages: Stages,
    stage: &'static str,
    number: u64,
    since: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stages.lock().stages.remove(&self.number);
        self.stages.observe(self.stage, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn a_stage_is_under_way_until_its_timer_is_dropped() {
        let stages = Metrics::new().stages.clone();
        let first = stages.time_of("cni_add", "pod-a");
        let second = stages.time_of("shim_start", "pod-b");
        let named = |stages: &Stages| -> Vec<_> {
            stages.under_way().into_iter().map(|now| (now.stage, now.subject)).collect()
        };
        assert_eq!(named(&stages), [("cni_add", "pod-a".to_owned()), ("shim_start", "pod-b".to_owned())]);
        drop(first);
        assert_eq!(named(&stages), [("shim_start", "pod-b".to_owned())]);
        drop(second);
        assert!(named(&stages).is_empty());
    }

    #[test]
    fn what_stages_cost_adds_up() {
        let stages = Metrics::new().stages.clone();
        stages.observe("netns", Duration::from_millis(3));
        stages.observe("netns", Duration::from_millis(1));
        let spent = Spent { count: 2, total: Duration::from_millis(4), slowest: Duration::from_millis(3) };
        assert_eq!(stages.spent(), [("netns", spent)]);
    }
}
