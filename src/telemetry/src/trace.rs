//! Traces: those spans of `tracing` that have an `otel.name` go out as OpenTelemetry spans.
//!
//! Off until [`Traces::start`]; what is off makes no span and looks up nothing. A finished span is put into a bounded
//! queue of the SDK's batch processor without waiting; when that is full it is dropped. A thread of the processor's
//! empties the queue every few seconds (OTEL_BSP_*).

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::field;

mod export;
mod settings;

pub use settings::{OtlpProtocol, SettingsError, TraceConfig, TraceSettings};

/// What we are called where nobody says.
const SERVICE_NAME: &str = "gantline";

/// The tracer of this process, while traces go out.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Why traces cannot go out as asked.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The host's certificates.
    #[error("read the host's certificate authorities for the traces' receiver")]
    Roots(#[source] std::io::Error),
    /// The exporter.
    #[error("make the exporter of traces")]
    Exporter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Traces that go out until this is shut down.
pub struct Traces {
    provider: SdkTracerProvider,
    settings: TraceSettings,
}

impl Traces {
    /// Makes the exporter, whose connections live on `runtime`. The receiver need not be there.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn start(settings: TraceSettings, runtime: &Handle) -> Result<Self, TraceError> {
        let exporter = export::exporter(&settings, runtime)?;
        let resource = resource(&settings);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(settings.sampler.clone())
            .with_resource(resource)
            .build();
        Ok(Self { provider, settings })
    }

    /// The tracer that the subscriber gets. From now on [`is_on`].
    pub(crate) fn tracer(&self) -> SdkTracer {
        TRACER.get_or_init(|| self.provider.tracer("gantline")).clone()
    }

    /// Where they go, for the log.
    pub fn describe(&self) -> (&str, &'static str) {
        (&self.settings.endpoint, self.settings.protocol.word())
    }

    /// Sends what waits, `within` at most. The runtime must still run, and the caller must not be on it.
    pub fn shutdown(self, within: Duration) {
        // What could not be sent was said when it failed.
        let _ = self.provider.shutdown_with_timeout(within);
    }
}

fn resource(settings: &TraceSettings) -> Resource {
    // OTEL_RESOURCE_ATTRIBUTES are among the builder's own; what was said of the name goes over them.
    let ours = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let base = Resource::builder().build();
    let named = base
        .iter()
        .any(|(key, value)| key.as_str() == "service.name" && !value.as_str().starts_with("unknown_service"));
    let attributes = base.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let builder = Resource::builder_empty().with_attribute(ours).with_attributes(attributes);
    match (&settings.service_name, named) {
        (Some(name), _) => builder.with_service_name(name.clone()).build(),
        (None, true) => builder.build(),
        (None, false) => builder.with_service_name(SERVICE_NAME).build(),
    }
}

/// Whether traces go out.
pub(crate) fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Makes `span`, which nobody has entered yet, continue the trace of a request's headers (W3C Trace Context), or
/// begin one; notes its id in the span's field `trace_id`.
pub fn adopt(span: &Span, headers: &http::HeaderMap) {
    if !is_on() {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if parent.span().span_context().is_valid() {
        // It fails only for a span that has begun or that no trace has.
        let _ = span.set_parent(parent);
    }
    let context = span.context();
    let trace = context.span().span_context().clone();
    if trace.is_valid() {
        span.record(field::TRACE_ID, tracing::field::display(trace.trace_id()));
    }
}

/// Ends the span for the receiver; what is still done in it changes that no more. Without, a span ends with the last
/// thing that is done in it.
pub fn end(span: &Span) {
    if is_on() {
        span.context().span().end();
    }
}

/// Marks a span that has `otel.status_code` and `otel.status_description` as failed, and says why.
pub fn fail(span: &Span, why: &str) {
    span.record(field::STATUS_CODE, "ERROR");
    span.record(field::STATUS_DESCRIPTION, why);
}

/// The id of the trace that `span` is part of, where it is kept.
pub fn trace_id(span: &Span) -> Option<String> {
    if !is_on() {
        return None;
    }
    let context = span.context();
    let trace = context.span().span_context().clone();
    (trace.is_valid() && trace.is_sampled()).then(|| trace.trace_id().to_string())
}

/// Puts what was timed elsewhere into the trace of `parent`.
pub(crate) fn past(
    parent: &Span,
    name: &'static str,
    fields: &[(&'static str, &str)],
    (began, took): (SystemTime, Duration),
    done: bool,
) {
    let Some(tracer) = TRACER.get() else { return };
    let attributes = fields.iter().map(|(key, value)| KeyValue::new(*key, (*value).to_owned()));
    let span =
        tracer.span_builder(name).with_start_time(began).with_attributes(attributes.collect::<Vec<_>>());
    let mut span = span.start_with_context(tracer, &parent.context());
    if !done {
        span.set_status(Status::error("failed"));
    }
    span.end_with_timestamp(began + took);
}
