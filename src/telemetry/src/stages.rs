//! The parts of requests. A stage is one thing told in four ways: it is under way until it ends, its duration goes
//! into a histogram, it is a span of the trace, and at debug it is a log line with the target `stage`.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::{Registry, Unit};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::metrics::{Histograms, observe, timings};
use crate::trace;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

/// How long the parts of requests take: `netns`, `cni_add`, `shim_start`, `snapshot`, `oci_run`,
/// `pull_layers` … By default nobody counts them.
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

impl Default for Stages {
    fn default() -> Self {
        Self { durations: timings(), under_way: Arc::default(), spent: Arc::default() }
    }
}

impl std::fmt::Debug for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stages({} under way)", self.lock().stages.len())
    }
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
    /// Whose it is: the value of the first field that [`Stages::begin`] was told.
    pub subject: String,
    /// When it began.
    pub since: Instant,
}

impl Stages {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let stages = Self::default();
        registry.register_with_unit(
            "stage_duration",
            "Parts of CRI requests, failed ones too",
            Unit::Seconds,
            stages.durations.clone(),
        );
        stages
    }

    /// Begins a stage. `fields` say whose it is, the first above all; their names are those of [`crate::field`].
    pub fn begin(&self, stage: &'static str, fields: &[(&'static str, &str)]) -> Stage {
        let since = Instant::now();
        let subject = fields.first().map_or_else(String::new, |(_, subject)| (*subject).to_owned());
        let mut under_way = self.lock();
        let number = under_way.next;
        under_way.next += 1;
        under_way.stages.insert(number, StageNow { stage, subject, since });
        drop(under_way);
        let span = span(stage);
        for (name, value) in fields {
            span.record(*name, *value);
        }
        Stage { stages: self.clone(), stage, number, since, span, failed: None }
    }

    /// Notes a stage that was timed elsewhere, and whether it was `done`; the current span is whose part it was.
    pub fn note(
        &self,
        stage: &'static str,
        fields: &[(&'static str, &str)],
        began: SystemTime,
        took: Duration,
        done: bool,
    ) {
        let parent = Span::current();
        trace::past(&parent, stage, fields, (began, took), done);
        self.observe(stage, took, trace::trace_id(&parent));
        let elapsed_ms = millis(took);
        match done {
            true => tracing::debug!(target: "stage", stage, elapsed_ms, "stage done"),
            false => tracing::debug!(target: "stage", stage, elapsed_ms, "stage failed"),
        }
    }

    fn observe(&self, stage: &'static str, took: Duration, trace: Option<String>) {
        observe(&self.durations, &StageLabels { stage }, took, trace);
        // Three additions: a panic elsewhere leaves it whole.
        let mut all = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = all.entry(stage).or_default();
        spent.count += 1;
        spent.total += took;
        spent.slowest = spent.slowest.max(took);
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

/// Every field that a stage may have stands here: a span takes no others.
fn span(stage: &'static str) -> Span {
    tracing::debug_span!(
        target: "stage",
        "stage",
        otel.name = stage,
        otel.status_code = Empty,
        otel.status_description = Empty,
        stage,
        pod.id = Empty,
        container.id = Empty,
        image.ref = Empty,
        image.id = Empty,
        layer.digest = Empty,
        cni.plugin = Empty,
        cni.command = Empty,
        registry.host = Empty,
        oci.runtime = Empty,
        shim.call = Empty,
    )
}

/// A duration as log lines have it: milliseconds, to the microsecond.
pub fn millis(took: Duration) -> f64 {
    took.as_micros() as f64 / 1000.0
}

/// A stage under way; dropping it ends the stage.
#[must_use = "the stage ends when this is dropped"]
pub struct Stage {
    stages: Stages,
    stage: &'static str,
    number: u64,
    since: Instant,
    span: Span,
    failed: Option<String>,
}

impl Stage {
    /// Does the stage's work in its span, and ends the stage with what came of it.
    pub async fn run<T, E: Error>(mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let result = work.instrument(self.span.clone()).await;
        self.judge(&result);
        result
    }

    /// As [`Self::run`], on a thread that may block.
    pub fn run_blocking<T, E: Error>(mut self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let result = self.span.in_scope(work);
        self.judge(&result);
        result
    }

    /// Its span, for work that is part of it and done elsewhere.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Notes what the stage's work came to, if it has failed.
    pub fn judge<T, E: Error>(&mut self, result: &Result<T, E>) {
        if let Err(error) = result {
            self.failed = Some(chain(error));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        self.stages.lock().stages.remove(&self.number);
        self.stages.observe(self.stage, took, trace::trace_id(&self.span));
        let elapsed_ms = millis(took);
        match self.failed.take() {
            None => self.span.in_scope(|| tracing::debug!(target: "stage", elapsed_ms, "stage done")),
            Some(error) => {
                trace::fail(&self.span, &error);
                self.span.in_scope(|| tracing::debug!(target: "stage", elapsed_ms, error, "stage failed"));
            }
        }
    }
}

/// An error and its sources, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{Metrics, field};

    const A: &[(&str, &str)] = &[(field::POD_ID, "pod-a")];

    #[test]
    fn a_stage_is_under_way_until_it_is_dropped() {
        let stages = Metrics::new().stages.clone();
        let first = stages.begin("cni_add", A);
        let second = stages.begin("shim_start", &[(field::POD_ID, "pod-b")]);
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
        stages.note("netns", &[], SystemTime::now(), Duration::from_millis(3), true);
        stages.note("netns", &[], SystemTime::now(), Duration::from_millis(1), true);
        let spent = Spent { count: 2, total: Duration::from_millis(4), slowest: Duration::from_millis(3) };
        assert_eq!(stages.spent(), [("netns", spent)]);
    }

    #[test]
    fn at_debug_each_stage_is_one_line_with_its_duration_and_its_failure() {
        let sink = crate::log::tests::Sink::default();
        let stages = Stages::default();
        let work = || {
            let fields = [(field::POD_ID, "pod-a"), (field::CNI_PLUGIN, "bridge")];
            let failed = stages.begin("cni_plugin", &fields).run_blocking(|| {
                stages.begin("inner", A).run_blocking(|| Ok::<_, io::Error>(())).unwrap();
                Err::<(), _>(io::Error::other("no addresses left"))
            });
            failed.unwrap_err();
            stages.note("oci_create", A, SystemTime::now(), Duration::from_millis(7), true);
        };
        tracing::subscriber::with_default(crate::log::tests::subscriber(&sink, "debug"), work);
        let text = sink.text();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0]["stage"], "inner");
        assert_eq!(lines[0]["message"], "stage done");
        assert_eq!(lines[1]["stage"], "cni_plugin");
        assert_eq!(lines[1]["cni.plugin"], "bridge");
        assert_eq!(lines[1]["pod.id"], "pod-a");
        assert_eq!(lines[1]["message"], "stage failed");
        assert_eq!(lines[1]["error"], "no addresses left");
        assert_eq!(lines[2]["elapsed_ms"], 7.0);
        assert!(lines.iter().all(|line| line["elapsed_ms"].as_f64().unwrap() >= 0.0), "{text}");
        assert!(!text.contains("otel."), "what is for the exporter alone is not in a log: {text}");
    }

    #[test]
    fn every_field_of_a_stage_has_a_place_in_its_span() {
        let subscriber = crate::log::tests::subscriber(&crate::log::tests::Sink::default(), "debug");
        tracing::subscriber::with_default(subscriber, || {
            let span = span("x");
            for name in field::OF_STAGES.iter().chain(&[field::STATUS_CODE, field::STATUS_DESCRIPTION]) {
                assert!(span.has_field(*name), "{name}");
            }
        });
    }
}
