//! The way of finished spans to the receiver: the exporter of the chosen protocol, on the service's own runtime,
//! and one word when the receiver is gone and one when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::runtime::Handle;
use tonic::transport::ClientTlsConfig;

use super::TraceError;
use super::settings::{OtlpProtocol, TraceSettings};

/// The exporter of the chosen protocol. Nothing is connected yet: a receiver that is not there is no fault.
pub(super) fn exporter(settings: &TraceSettings, runtime: &Handle) -> Result<Watched, TraceError> {
    // Connections live on the runtime that is entered here.
    let _entered = runtime.enter();
    let secure = settings.endpoint.starts_with("https:");
    let built = match settings.protocol {
        OtlpProtocol::Grpc => {
            let mut builder = Otlp::builder().with_tonic().with_endpoint(&settings.endpoint);
            if secure {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_native_roots());
            }
            builder.with_timeout(settings.timeout).build()
        }
        OtlpProtocol::HttpProtobuf if secure => {
            let provider = rustls::crypto::ring::default_provider();
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider)
                .map_err(TraceError::Roots)?
                .https_only()
                .enable_http1()
                .build();
            over_http(settings, HyperClient::new(connector, settings.timeout, None))
        }
        OtlpProtocol::HttpProtobuf => {
            over_http(settings, HyperClient::with_default_connector(settings.timeout, None))
        }
    };
    let inner = built.map_err(|error| TraceError::Exporter(Box::new(error)))?;
    Ok(Watched {
        inner: Arc::new(inner),
        runtime: runtime.clone(),
        endpoint: settings.endpoint.clone(),
        gone: AtomicBool::new(false),
        lost: AtomicU64::new(0),
    })
}

fn over_http(
    settings: &TraceSettings,
    client: impl opentelemetry_http::HttpClient + 'static,
) -> Result<Otlp, ExporterBuildError> {
    Otlp::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&settings.endpoint)
        .with_timeout(settings.timeout)
        .with_http_client(client)
        .build()
}

/// An exporter whose failures are told once.
#[derive(Debug)]
pub(super) struct Watched<E = Otlp> {
    inner: Arc<E>,
    runtime: Handle,
    endpoint: String,
    gone: AtomicBool,
    /// Spans that were not delivered since it went.
    lost: AtomicU64,
}

impl<E> Watched<E> {
    fn note(&self, result: &OTelSdkResult, spans: u64) {
        match result {
            Ok(()) => {
                if self.gone.swap(false, Ordering::Relaxed) {
                    let lost = self.lost.swap(0, Ordering::Relaxed);
                    tracing::info!(endpoint = self.endpoint, lost, "traces are taken again");
                }
            }
            Err(error) => {
                self.lost.fetch_add(spans, Ordering::Relaxed);
                if !self.gone.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        %error,
                        "traces are not taken; they are lost until they are, and that is said once"
                    );
                }
            }
        }
    }
}

impl<E: SpanExporter + 'static> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let inner = Arc::clone(&self.inner);
        // The batches' own thread knows no timers and no sockets: the runtime does the work. What its clients say in
        // logs must not become spans, of which there is none here.
        let sent = self.runtime.spawn(async move { inner.export(batch).await }).await;
        let result = sent.unwrap_or(Err(OTelSdkError::AlreadyShutdown));
        self.note(&result, spans);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Before the first batch nobody else holds it.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Flaky(AtomicBool);

    impl SpanExporter for Flaky {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            match self.0.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(OTelSdkError::InternalFailure("connection refused".into())),
            }
        }
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_said_once_and_once_that_it_is_back() {
        let inner = Arc::new(Flaky::default());
        let watched = Watched {
            inner: Arc::clone(&inner),
            runtime: Handle::current(),
            endpoint: "http://x".into(),
            gone: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        };
        let sink = crate::log::tests::Sink::default();
        let subscriber = crate::log::tests::subscriber(&sink, "info");
        let guard = tracing::subscriber::set_default(subscriber);
        for _ in 0..3 {
            assert!(watched.export(Vec::new()).await.is_err());
        }
        inner.0.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            watched.export(Vec::new()).await.unwrap();
        }
        drop(guard);
        let text = sink.text();
        assert_eq!(text.matches("traces are not taken").count(), 1, "{text}");
        assert_eq!(text.matches("traces are taken again").count(), 1, "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
