//! What Gantline says about itself: logs on standard error, metrics for a scraper, and the names of both.
//!
//! Rooms are handed an `Arc<`[`Metrics`]`>` when they are built and record what they own; the daemon encodes
//! it for `/metrics`. The only crate that knows prometheus-client and tracing-subscriber. It depends on no
//! sibling and must never know what a pod, an image or a request is: it takes names and numbers.

pub mod field;
mod log;
mod metrics;
mod node;
mod stages;

pub use log::{LogConfig, LogError, LogFormat, LogHandle, init, log_panics};
pub use metrics::{CONTENT_TYPE, Counter, CounterBy, Level, LevelBy, Metrics, Operation, Operations};
pub use node::NodeMetrics;
pub use stages::{Spent, StageNow, Stages, Timer};
