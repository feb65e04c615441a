//! What Gantline says about itself: logs on standard error, metrics for a scraper, traces for a receiver, and the
//! names in all three.
//!
//! Rooms are handed an `Arc<`[`Metrics`]`>` when they are built and record what they own; the daemon encodes
//! it for `/metrics`. The only crate that knows prometheus-client, tracing-subscriber and
//! OpenTelemetry. It depends on no
//! sibling and must never know what a pod, an image or a request is: it takes names and numbers.

pub mod field;
mod log;
mod metrics;
mod node;
mod stages;
mod text;
mod trace;

pub use log::{LogConfig, LogError, LogFormat, LogHandle, init, log_panics};
pub use metrics::{Counter, CounterBy, Level, LevelBy, Metrics, Operation, Operations};
pub use node::NodeMetrics;
pub use stages::{Spent, Stage, StageNow, Stages, millis};
pub use text::Exposition;
pub use trace::{
    OtlpProtocol, SettingsError, TraceConfig, TraceError, TraceSettings, Traces, adopt, end, fail, trace_id,
};
