//! What every request passes: its span, its metrics, and the gate that is shut until the service has
//! recovered.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Frame, SizeHint};
use model::limits::GRPC_MESSAGE_BYTES_MAX;
use telemetry::{Operation, Operations, field};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};

use crate::deadline;
use crate::methods::{self, Method};
use crate::status::code_name;

/// Whether the service has taken over what was running before it started, as the room that does it tells: who reads
/// RuntimeReady in a Status is served all the rest from that moment on.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Receiver<bool>);

impl Readiness {
    /// Shut until `recovered` holds true.
    pub fn after(recovered: watch::Receiver<bool>) -> Self {
        Self(recovered)
    }

    /// Whether every RPC is served.
    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }
}

/// Wraps the services.
#[derive(Clone)]
pub(crate) struct RequestLayer {
    pub(crate) operations: Operations,
    pub(crate) readiness: Readiness,
}

impl<S> tower::Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestService { layer: self.clone(), inner }
    }
}

/// The services, wrapped.
#[derive(Clone)]
pub(crate) struct RequestService<S> {
    layer: RequestLayer,
    inner: S,
}

type Response = http::Response<Body>;

impl<S, B> tower::Service<http::Request<B>> for RequestService<S>
where
    S: tower::Service<http::Request<B>, Response = Response>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let Some(method) = methods::find(request.uri().path()) else {
            // Not of this contract: tonic answers UNIMPLEMENTED.
            return Box::pin(self.inner.call(request));
        };
        let observed = Observed::new(&self.layer.operations, method, request.headers());
        if !method.early && !self.layer.readiness.is_open() {
            let status =
                Status::unavailable("gantline is still taking over what was running: retry in a moment");
            return Box::pin(async move { Ok(observed.answer(status.into_http())) });
        }
        let timeout = deadline::of_request(request.headers());
        let inner = self.inner.call(request).instrument(observed.span.clone());
        let inner = deadline::keep(timeout, inner);
        Box::pin(async move {
            match inner.await {
                Some(answer) => answer.map(|response| observed.answer(response)),
                None => {
                    let why = format!("{} was not done within the client's deadline", method.name);
                    Ok(observed.answer(Status::deadline_exceeded(why).into_http()))
                }
            }
        })
    }
}

/// One request, from its arrival to the last byte of its answer.
struct Observed {
    /// `None` once the code is known.
    operation: Option<Operation>,
    span: Span,
    since: Instant,
}

impl Observed {
    fn new(operations: &Operations, method: Method, headers: &http::HeaderMap) -> Self {
        // Handlers fill in the ids that the request names.
        let span = tracing::info_span!(
            "rpc",
            otel.name = method.name,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            trace_id = tracing::field::Empty,
            rpc.method = method.name,
            rpc.code = tracing::field::Empty,
            pod.id = tracing::field::Empty,
            container.id = tracing::field::Empty,
            image.ref = tracing::field::Empty,
            pod.name = tracing::field::Empty,
            pod.namespace = tracing::field::Empty,
        );
        telemetry::adopt(&span, headers);
        let operation = operations.start(method.name).within(&span);
        Self { operation: Some(operation), span, since: Instant::now() }
    }

    /// An error has its code in the headers; everything else ends with trailers.
    fn answer(mut self, response: Response) -> Response {
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                let status = too_large(status, Code::InvalidArgument, "the request");
                self.finish(&status);
                status.into_http()
            }
            None => response.map(|body| Body::new(ObservedBody { body, observed: self })),
        }
    }

    fn finish(&mut self, status: &Status) {
        let Some(operation) = self.operation.take() else { return };
        let code = code_name(status.code());
        operation.finish(code);
        let (elapsed_ms, error) = (telemetry::millis(self.since.elapsed()), status.message());
        self.span.record(field::RPC_CODE, code);
        let _entered = self.span.enter();
        match status.code() {
            Code::Ok => tracing::debug!(rpc.code = code, elapsed_ms, "served"),
            Code::NotFound | Code::Unimplemented | Code::Cancelled => {
                tracing::debug!(rpc.code = code, elapsed_ms, error, "refused");
            }
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::PermissionDenied => {
                tracing::info!(rpc.code = code, elapsed_ms, error, "refused");
            }
            _ => {
                telemetry::fail(&self.span, error);
                tracing::warn!(rpc.code = code, elapsed_ms, error, "failed");
            }
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if self.operation.is_some() {
            telemetry::fail(&self.span, "the client went away");
        }
        // What goes on without its client is not the request any more.
        telemetry::end(&self.span);
    }
}

/// tonic calls a message over its bound OUT_OF_RANGE, which nothing of ours does; clients expect other codes.
fn too_large(status: Status, code: Code, what: &str) -> Status {
    match status.code() {
        Code::OutOfRange => {
            Status::new(code, format!("{what} is larger than {GRPC_MESSAGE_BYTES_MAX} bytes"))
        }
        _ => status,
    }
}

/// A body whose trailers are read as they pass.
struct ObservedBody {
    body: Body,
    observed: Observed,
}

impl http_body::Body for ObservedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let this = self.get_mut();
        let polled = {
            let _entered = this.observed.span.enter();
            Pin::new(&mut this.body).poll_frame(cx)
        };
        let Poll::Ready(Some(Ok(frame))) = polled else { return polled };
        let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) else {
            return Poll::Ready(Some(Ok(frame)));
        };
        let status = too_large(status, Code::ResourceExhausted, "the reply");
        this.observed.finish(&status);
        let mut trailers = http::HeaderMap::new();
        match status.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(status) => Poll::Ready(Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
