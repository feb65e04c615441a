//! The metrics of one service, all under the prefix `gantline_`, and their encoding for a scraper.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter as PlainCounter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing::Span;

use crate::node::NodeMetrics;
use crate::stages::Stages;
use crate::text::{Exposition, classic};
use crate::{field, trace};

/// Durations: 0.5 ms, 1 ms, 2 ms … 65 s. A stage of a pod start takes about 1 ms, a pull may take a minute.
const DURATION_BUCKETS: (f64, f64, u16) = (0.000_5, 2.0, 18);

/// Values that one label takes, at most: the names of CNI plugins come from files. Beyond, they are [`OTHER`].
const LABEL_VALUES_MAX: usize = 64;
const OTHER: &str = "other";

/// A duration; each bucket remembers the trace of the last one in it that has one.
type Durations = HistogramWithExemplars<Exemplar>;

/// What an exemplar says, under the name that Grafana and others look for.
type Exemplar = [(&'static str, String); 1];

fn duration_histogram() -> Durations {
    let (start, factor, count) = DURATION_BUCKETS;
    Durations::new(exponential_buckets(start, factor, count))
}

pub(crate) type Histograms<L> = Family<L, Durations, fn() -> Durations>;

/// Histograms of durations, one for each set of labels.
pub(crate) fn timings<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Histograms::new_with_constructor(duration_histogram as fn() -> Durations)
}

/// Notes a duration, and the trace that shows where it went.
pub(crate) fn observe<L>(durations: &Histograms<L>, labels: &L, took: Duration, trace: Option<String>)
where
    L: Clone + std::hash::Hash + Eq,
{
    let exemplar = trace.map(|trace| [(field::TRACE_ID, trace)]);
    durations.get_or_create(labels).observe(took.as_secs_f64(), exemplar, Some(SystemTime::now()));
}

/// Everything that the service counts. Built once; rooms share it behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    /// CRI requests.
    pub operations: Operations,
    /// The parts that requests are made of.
    pub stages: Stages,
    /// The node and this process.
    pub node: NodeMetrics,
    /// CNI plugin invocations that failed, by plugin type.
    pub cni_errors: CounterBy,
    /// Bytes received from registries.
    pub pull_bytes: Counter,
    /// Pulls by outcome: `ok`, `failed`.
    pub pulls: CounterBy,
    /// Layers that pulls needed by where they came from: `pulled`, `reused`.
    pub layers: CounterBy,
    /// Requests to registries that were tried again.
    pub registry_retries: Counter,
    /// Container output that could not be written to its log file, bytes.
    pub log_dropped_bytes: Counter,
    /// Pods by state: `ready`, `not_ready`.
    pub pods: LevelBy,
    /// Containers by state: `running`, `other`.
    pub containers: LevelBy,
    /// Images that are listed.
    pub images: Level,
    /// What layers take on disk, bytes.
    pub image_bytes: Level,
    /// Exec, attach and port-forward sessions that run.
    pub streaming_sessions: Level,
    /// URLs of sessions that are out and not begun.
    pub streaming_tokens: Level,
    /// Asynchronous tasks of the service.
    pub tasks: Level,
    recovery: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// A registry of its own with every metric in it.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("gantline");
        let operations = Operations::register(&mut registry);
        let stages = Stages::register(&mut registry);
        let node = NodeMetrics::register(&mut registry);
        let cni_errors = CounterBy::new("plugin");
        registry.register(
            "cni_errors",
            "CNI plugin invocations that failed, by plugin",
            cni_errors.0.clone(),
        );
        let pull_bytes = Counter::default();
        registry.register_with_unit("pull", "Received from registries", Unit::Bytes, pull_bytes.0.clone());
        let log_dropped_bytes = Counter::default();
        registry.register_with_unit(
            "log_dropped",
            "Container output that could not be written to its log",
            Unit::Bytes,
            log_dropped_bytes.0.clone(),
        );
        let pulls = CounterBy::new("outcome");
        registry.register("pulls", "Pulls by outcome", pulls.0.clone());
        let layers = CounterBy::new("origin");
        registry.register("layers", "Layers that pulls needed, by where they came from", layers.0.clone());
        let registry_retries = Counter::default();
        registry.register(
            "registry_retries",
            "Requests to registries that were tried again",
            registry_retries.0.clone(),
        );
        let pods = LevelBy::new("state");
        registry.register("pods", "Pods by state", pods.0.clone());
        let containers = LevelBy::new("state");
        registry.register("containers", "Containers by state", containers.0.clone());
        let images = Level::default();
        registry.register("images", "Images that are listed", images.0.clone());
        let image_bytes = Level::default();
        registry.register_with_unit("image", "What layers take on disk", Unit::Bytes, image_bytes.0.clone());
        let streaming_sessions = Level::default();
        registry.register(
            "streaming_sessions",
            "Exec, attach and port-forward sessions that run",
            streaming_sessions.0.clone(),
        );
        let streaming_tokens = Level::default();
        registry.register(
            "streaming_tokens",
            "URLs of sessions that are out and not begun",
            streaming_tokens.0.clone(),
        );
        let tasks = Level::default();
        registry.register("tasks", "Asynchronous tasks of the service", tasks.0.clone());
        let recovery = Gauge::default();
        registry.register_with_unit(
            "recovery_duration",
            "How long the last start took to take over what was running",
            Unit::Seconds,
            recovery.clone(),
        );
        registry.register(
            "build",
            "The version that is running",
            Info::new([("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)]),
        );
        Arc::new(Self {
            registry,
            operations,
            stages,
            node,
            cni_errors,
            pull_bytes,
            pulls,
            layers,
            registry_retries,
            log_dropped_bytes,
            pods,
            containers,
            images,
            image_bytes,
            streaming_sessions,
            streaming_tokens,
            tasks,
            recovery,
        })
    }

    /// Notes how long the service took at start to take over what was running.
    pub fn recovered_in(&self, duration: Duration) {
        self.recovery.set(duration.as_secs_f64());
    }

    /// All metrics in the form that a scraper asked for.
    pub fn encode(&self, form: Exposition) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, and no metric here refuses to be encoded.
        let _ = encode(&mut text, &self.registry);
        match form {
            Exposition::OpenMetrics => text,
            Exposition::Classic => classic(&text),
        }
    }
}

/// A number that only grows.
#[derive(Clone, Default)]
pub struct Counter(pub(crate) PlainCounter);

impl Counter {
    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.inc_by(amount);
    }

    /// Follows a number that is counted elsewhere; one that went back is left out. Call it from one place.
    pub fn reach(&self, total: u64) {
        self.0.inc_by(total.saturating_sub(self.0.get()));
    }

    /// What was added since the service started.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Numbers that only grow, one for each value of a label.
#[derive(Clone)]
pub struct CounterBy(pub(crate) Family<[(&'static str, String); 1], PlainCounter>, Label);

impl CounterBy {
    pub(crate) fn new(label: &'static str) -> Self {
        Self(Family::default(), Label::new(label))
    }

    /// Adds one to the counter of `value`. Values must come from a small set: each makes a time series.
    pub fn increment(&self, value: &str) {
        self.0.get_or_create(&self.1.is(value)).inc();
    }

    /// As [`Counter::reach`], for the counter of `value`.
    pub fn reach(&self, value: &str, total: u64) {
        let counter = self.0.get_or_create(&self.1.is(value));
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}

/// A number that goes up and down.
#[derive(Clone, Default)]
pub struct Level(pub(crate) Gauge);

impl Level {
    /// What it is now.
    pub fn set(&self, value: usize) {
        self.0.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

/// Numbers that go up and down, one for each value of a label.
#[derive(Clone)]
pub struct LevelBy(pub(crate) Family<[(&'static str, String); 1], Gauge>, Label);

impl LevelBy {
    pub(crate) fn new(label: &'static str) -> Self {
        Self(Family::default(), Label::new(label))
    }

    /// What the number of `value` is now.
    pub fn set(&self, value: &str, level: usize) {
        let level = i64::try_from(level).unwrap_or(i64::MAX);
        self.0.get_or_create(&self.1.is(value)).set(level);
    }
}

/// A label and the values that it has taken: a name that comes from outside cannot make series without end.
#[derive(Clone)]
pub(crate) struct Label {
    name: &'static str,
    values: Arc<Mutex<BTreeSet<String>>>,
}

impl Label {
    fn new(name: &'static str) -> Self {
        Self { name, values: Arc::default() }
    }

    fn is(&self, value: &str) -> [(&'static str, String); 1] {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let known = values.contains(value);
        if !known && values.len() >= LABEL_VALUES_MAX {
            return [(self.name, OTHER.to_owned())];
        }
        if !known {
            values.insert(value.to_owned());
        }
        [(self.name, value.to_owned())]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    rpc: &'static str,
    code: &'static str,
}

/// CRI requests: how many are being served, and how long each took by RPC and gRPC code.
#[derive(Clone)]
pub struct Operations {
    durations: Histograms<OperationLabels>,
    in_flight: Gauge,
}

impl Operations {
    fn register(registry: &mut Registry) -> Self {
        let durations = timings();
        let in_flight = Gauge::default();
        registry.register_with_unit(
            "operation_duration",
            "CRI requests by RPC and gRPC code",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("operations_in_flight", "CRI requests being served", in_flight.clone());
        Self { durations, in_flight }
    }

    /// A request for `rpc` (`RunPodSandbox`) has come. It is in flight until the returned value is finished
    /// or dropped.
    pub fn start(&self, rpc: &'static str) -> Operation {
        self.in_flight.inc();
        Operation {
            operations: self.clone(),
            rpc,
            started: Instant::now(),
            code: "CANCELLED",
            span: Span::none(),
        }
    }

    /// How many requests are being served.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.get().try_into().unwrap_or(0)
    }
}

/// One request in flight. Dropped without [`Operation::finish`], it counts as `CANCELLED`: the client left.
#[must_use = "the request counts as cancelled when this is dropped"]
pub struct Operation {
    operations: Operations,
    rpc: &'static str,
    started: Instant,
    code: &'static str,
    span: Span,
}

impl Operation {
    /// Its span, for the trace that shows where its time went.
    pub fn within(mut self, span: &Span) -> Self {
        self.span = span.clone();
        self
    }

    /// The request was answered with this gRPC code (`OK`, `NOT_FOUND`).
    pub fn finish(mut self, code: &'static str) {
        self.code = code;
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.operations.in_flight.dec();
        let labels = OperationLabels { rpc: self.rpc, code: self.code };
        let trace = trace::trace_id(&self.span);
        observe(&self.operations.durations, &labels, self.started.elapsed(), trace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_grow_without_bound() {
        let metrics = Metrics::new();
        for plugin in 0..1000 {
            metrics.cni_errors.increment(&format!("plugin-{plugin}"));
        }
        let text = metrics.encode(Exposition::OpenMetrics);
        let series = text.lines().filter(|line| line.starts_with("gantline_cni_errors_total{")).count();
        assert_eq!(series, LABEL_VALUES_MAX + 1);
        let rest = 1000 - LABEL_VALUES_MAX;
        assert!(text.contains(&format!("gantline_cni_errors_total{{plugin=\"other\"}} {rest}")), "{text}");
    }

    #[test]
    fn what_is_recorded_is_what_a_scraper_reads() {
        let metrics = Metrics::new();
        let running = metrics.operations.start("PullImage");
        metrics.operations.start("RunPodSandbox").finish("OK");
        drop(metrics.operations.start("ExecSync"));
        drop(metrics.stages.begin("cni_add", &[(field::POD_ID, "a pod")]));
        metrics.stages.note("netns", &[], SystemTime::now(), Duration::from_millis(3), true);
        metrics.cni_errors.increment("bridge");
        metrics.pull_bytes.add(1024);
        metrics.pull_bytes.reach(2048);
        metrics.pull_bytes.reach(512);
        metrics.pulls.reach("ok", 3);
        metrics.layers.reach("reused", 9);
        metrics.registry_retries.reach(1);
        metrics.pods.set("ready", 4);
        metrics.containers.set("running", 8);
        metrics.images.set(2);
        metrics.image_bytes.set(4096);
        metrics.log_dropped_bytes.add(7);
        metrics.recovered_in(Duration::from_millis(250));
        let text = metrics.encode(Exposition::OpenMetrics);
        for line in [
            "gantline_operation_duration_seconds_count{rpc=\"RunPodSandbox\",code=\"OK\"} 1",
            "gantline_operation_duration_seconds_count{rpc=\"ExecSync\",code=\"CANCELLED\"} 1",
            "gantline_operations_in_flight 1",
            "gantline_stage_duration_seconds_count{stage=\"cni_add\"} 1",
            "gantline_stage_duration_seconds_bucket{le=\"0.004\",stage=\"netns\"} 1",
            "gantline_stage_duration_seconds_bucket{le=\"0.002\",stage=\"netns\"} 0",
            "gantline_cni_errors_total{plugin=\"bridge\"} 1",
            "gantline_pull_bytes_total 2048",
            "gantline_pulls_total{outcome=\"ok\"} 3",
            "gantline_layers_total{origin=\"reused\"} 9",
            "gantline_registry_retries_total 1",
            "gantline_pods{state=\"ready\"} 4",
            "gantline_containers{state=\"running\"} 8",
            "gantline_images 2",
            "gantline_image_bytes 4096",
            "gantline_log_dropped_bytes_total 7",
            "gantline_recovery_duration_seconds 0.25",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(
            text.contains(&format!("gantline_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION"))),
            "{text}"
        );
        running.finish("OK");
        assert_eq!(metrics.operations.in_flight(), 0);
    }
}
