//! Logs: tracing's events as text or JSON lines on standard error, filtered by a level that can be changed
//! while the service runs. Traces, where they go out, have a layer of their own beside it: the level is the log's.

use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::trace::Traces;

mod json;
mod plain;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line, for a collector.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;
    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives by target: `info,image=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Why logging could not be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level nor a list of directives.
    #[error(
        "log level {0:?} is neither a level (error, warn, info, debug, trace) nor a list like info,image=debug"
    )]
    Level(String),
    /// Not a format.
    #[error("log format {0:?} is not one of text, json")]
    Format(String),
    /// The process already has a subscriber.
    #[error("set up logging a second time")]
    AlreadySet,
    /// The subscriber is gone.
    #[error("change the log level after logging has ended")]
    Ended,
}

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Logs by these directives from now on.
    ///
    /// # Errors
    /// [`LogError::Level`]; nothing has changed then.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse_level(level)?;
        self.filter.reload(filter).map_err(|_| LogError::Ended)
    }
}

impl LogConfig {
    /// Whether [`init`] would take it.
    ///
    /// # Errors
    /// [`LogError::Level`].
    pub fn validate(&self) -> Result<(), LogError> {
        parse_level(&self.level).map(drop)
    }
}

/// Sends the process's events to standard error, and its spans where `traces` go. Call it once, before anything is
/// worth logging.
///
/// # Errors
/// A level that is none, or a second call.
pub fn init(config: &LogConfig, traces: Option<&Traces>) -> Result<LogHandle, LogError> {
    let (filter, filter_handle) = reload::Layer::new(parse_level(&config.level)?);
    let output = layer(config.format, io::stderr().is_terminal(), io::stderr).with_filter(filter);
    let traces = traces.map(|traces| {
        // A span without a name for others is ours alone, or a library's. What is logged in a span is found by its
        // trace_id.
        let ours = filter_fn(|metadata| metadata.is_span() && metadata.fields().field("otel.name").is_some());
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false)
            .with_context_activation(false)
            .with_filter(ours)
    });
    tracing_subscriber::registry().with(output).with(traces).try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(LogHandle { filter: filter_handle })
}

/// Logs each panic, with its place and backtrace, before the process's own hook prints or aborts.
pub fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("?").to_owned();
        // PanicHookInfo::payload_as_str is newer than the workspace's rust-version.
        let payload = panic.payload();
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message = message.or(payload.downcast_ref::<&str>().copied()).unwrap_or("(no message)");
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(panic.place = place, panic.thread = thread, panic.backtrace = %backtrace, "panic: {message}");
        before(panic);
    }));
}

/// Libraries that say more at these levels than an operator can read.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tower=warn";

fn parse_level(level: &str) -> Result<EnvFilter, LogError> {
    // A bare word that is no level would be taken as a target's name and silence everything else; an empty
    // one parses as a level, too.
    let known = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        !level.is_empty() && level.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
    };
    if !level.split(',').all(known) {
        return Err(LogError::Level(level.to_owned()));
    }
    // "debug" is meant for our own words: each HTTP/2 frame is asked for by name, "debug,h2=debug".
    let chatty = ["debug", "trace"].iter().any(|chatty| level.trim().eq_ignore_ascii_case(chatty));
    let level = if chatty { format!("{level},{QUIET}") } else { level.to_owned() };
    EnvFilter::builder().parse(&level).map_err(|_| LogError::Level(level))
}

fn layer<S, W>(format: LogFormat, colour: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .fmt_fields(plain::Plain::default())
            .with_ansi(colour)
            .with_writer(writer)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
            .event_format(json::Flat)
            .with_writer(writer)
            .boxed(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// JSON lines into `sink`.
    pub(crate) fn subscriber(sink: &Sink, level: &str) -> impl tracing::Subscriber + Send + Sync + use<> {
        let writer = sink.clone();
        let output = layer(LogFormat::Json, false, move || writer.clone());
        tracing_subscriber::registry().with(output.with_filter(parse_level(level).unwrap()))
    }

    fn logged(format: LogFormat, level: &str, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(parse_level(level).unwrap()).with(layer(
            format,
            false,
            move || writer.clone(),
        ));
        tracing::subscriber::with_default(subscriber, work);
        sink.text()
    }

    #[test]
    fn json_lines_hold_the_fields_of_the_event_and_of_its_spans_side_by_side() {
        let text = logged(LogFormat::Json, "info", || {
            let span =
                tracing::info_span!("rpc", rpc.method = "RunPodSandbox", pod.id = tracing::field::Empty);
            let _in = span.enter();
            span.record("pod.id", "abc");
            tracing::info_span!("cni", cni.plugin = "bridge").in_scope(|| {
                tracing::warn!(error = "no space \"left\"", elapsed_ms = 3, "attach failed");
            });
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "attach failed");
        assert_eq!(line["error"], "no space \"left\"");
        assert_eq!(line["elapsed_ms"], 3);
        assert_eq!(line["rpc.method"], "RunPodSandbox");
        assert_eq!(line["pod.id"], "abc");
        assert_eq!(line["cni.plugin"], "bridge");
        assert_eq!(line["span"], "rpc:cni");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn text_lines_hold_the_same_names() {
        let text = logged(LogFormat::Text, "info", || tracing::info!(pod.id = "abc", "ready"));
        assert!(text.contains("ready") && text.contains("pod.id=\"abc\""), "{text}");
    }

    #[test]
    fn what_a_span_is_called_by_others_is_in_no_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, "info", || {
                let span =
                    tracing::info_span!("rpc", otel.name = "one", rpc.method = "two", otel.kind = "three");
                span.in_scope(|| tracing::info!(pod.id = "four", "ready"));
            });
            assert!(text.contains("two") && text.contains("four") && text.contains("ready"), "{text}");
            assert!(!text.contains("otel") && !text.contains("one") && !text.contains("three"), "{text}");
            assert!(!text.contains("{ "), "{text}");
        }
    }

    #[test]
    fn the_level_filters_by_target() {
        let text = logged(LogFormat::Text, "warn,image=debug", || {
            tracing::info!(target: "pod", "one");
            tracing::debug!(target: "image", "two");
        });
        assert!(!text.contains("one") && text.contains("two"), "{text}");
    }

    #[test]
    fn a_bare_level_leaves_out_the_frames_of_the_libraries() {
        let work = || {
            tracing::debug!(target: "h2::codec", "frame");
            tracing::debug!(target: "pod", "step");
        };
        let text = logged(LogFormat::Text, "debug", work);
        assert!(!text.contains("frame") && text.contains("step"), "{text}");
        assert!(logged(LogFormat::Text, "debug,h2=debug", work).contains("frame"));
        assert!(logged(LogFormat::Text, "off", work).is_empty());
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for bad in ["", "verbose", "info,image=loud", "info,,warn"] {
            assert!(matches!(parse_level(bad), Err(LogError::Level(_))), "{bad:?}");
        }
        for good in ["info", "off", "WARN", "info,image=debug,pod::driver=trace"] {
            assert!(parse_level(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_level_changes_while_running() {
        let sink = Sink::default();
        let writer = sink.clone();
        let (filter, handle) = reload::Layer::new(parse_level("warn").unwrap());
        let handle = LogHandle { filter: handle };
        let subscriber =
            tracing_subscriber::registry()
                .with(filter)
                .with(layer(LogFormat::Text, false, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            handle.set_level("info").unwrap();
            assert!(handle.set_level("loud").is_err());
            tracing::info!("after");
        });
        assert!(!sink.text().contains("before") && sink.text().contains("after"), "{}", sink.text());
    }
}
