//! A receiver of traces: OTLP over gRPC and over HTTP, of the tests' own, which keeps what comes and draws it.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1 as collector;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{self as trace, status::StatusCode};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::cri::runtime;
use crate::machine::Machine;
use crate::stream;
use crate::wait::eventually;

/// How long spans may be under way: the service sends them every five seconds, unless told otherwise.
const UNDER_WAY: Duration = Duration::from_secs(15);

/// One span, as it came.
#[derive(Debug, Clone)]
pub struct Span {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub id: String,
    /// Its parent's id; empty for a root.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// Its attributes, as text.
    pub attributes: Vec<(String, String)>,
    /// Nanoseconds since the epoch.
    pub began: u64,
    /// Nanoseconds since the epoch.
    pub ended: u64,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// The traces that it is linked to.
    pub links: Vec<String>,
}

impl Span {
    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What came.
#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Span>,
    resource: Vec<(String, String)>,
    headers: Vec<String>,
    raw: Vec<u8>,
}

/// A running receiver; clones share it.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Where, on the machine's loopback.
    pub address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Receiver {
    /// Takes OTLP over gRPC.
    #[track_caller]
    pub fn grpc(machine: &Machine) -> Self {
        let (receiver, listener) = Self::bind(machine);
        listener.set_nonblocking(true).expect("a listener for the runtime");
        let service = collector::trace_service_server::TraceServiceServer::new(receiver.clone());
        runtime().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of the runtime's");
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        receiver
    }

    /// Takes OTLP's protobuf over HTTP, at `/v1/traces`.
    #[track_caller]
    pub fn http(machine: &Machine) -> Self {
        let (receiver, listener) = Self::bind(machine);
        let taking = receiver.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let taking = taking.clone();
                std::thread::spawn(move || while taking.answer(&client).is_some() {});
            }
        });
        receiver
    }

    fn bind(machine: &Machine) -> (Self, TcpListener) {
        let listener = machine.on_its_network(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("bind the receiver");
        let address = listener.local_addr().expect("the receiver's address");
        (Self { address, taken: Arc::default() }, listener)
    }

    /// One request of a connection.
    fn answer(&self, mut client: &TcpStream) -> Option<()> {
        let head = stream::head(&mut client.try_clone().ok()?).ok()?;
        let lower = head.to_ascii_lowercase();
        let length =
            lower.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
        let mut body = vec![0; length];
        client.read_exact(&mut body).ok()?;
        let wanted = head.starts_with("POST /v1/traces ") && lower.contains("application/x-protobuf");
        let request = collector::ExportTraceServiceRequest::decode(&body[..]).ok().filter(|_| wanted);
        let status = if request.is_some() { "200 OK" } else { "400 Bad Request" };
        if let Some(request) = request {
            self.take(head, request);
        }
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n");
        client.write_all(answer.as_bytes()).ok()
    }

    fn take(&self, headers: String, request: collector::ExportTraceServiceRequest) {
        let mut taken = self.lock();
        taken.headers.push(headers);
        taken.raw.extend(request.encode_to_vec());
        for of_resource in request.resource_spans {
            taken.resource =
                of_resource.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            taken.spans.extend(spans.map(span));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.lock().spans.clone()
    }

    /// What the service says of itself.
    pub fn resource(&self) -> Vec<(String, String)> {
        self.lock().resource.clone()
    }

    /// The heads of the requests so far.
    pub fn headers(&self) -> Vec<String> {
        self.lock().headers.clone()
    }

    /// All bytes that came.
    pub fn raw(&self) -> Vec<u8> {
        self.lock().raw.clone()
    }

    /// The spans of one trace, once there is one for which `whole` holds.
    #[track_caller]
    pub fn trace(&self, id: &str, whole: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        eventually("the trace is here", UNDER_WAY, || {
            let spans: Vec<Span> = self.spans().into_iter().filter(|span| span.trace == id).collect();
            if whole(&spans) { Ok(spans) } else { Err(format!("so far:\n{}", draw(&spans))) }
        })
    }
}

#[tonic::async_trait]
impl collector::trace_service_server::TraceService for Receiver {
    async fn export(
        &self,
        request: Request<collector::ExportTraceServiceRequest>,
    ) -> Result<Response<collector::ExportTraceServiceResponse>, Status> {
        let headers = format!("{:?}", request.metadata());
        self.take(headers, request.into_inner());
        Ok(Response::new(collector::ExportTraceServiceResponse::default()))
    }
}

fn span(span: trace::Span) -> Span {
    let status = span.status.filter(|status| status.code == StatusCode::Error as i32);
    Span {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        attributes: texts(&span.attributes),
        began: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        failed: status.map(|status| status.message),
        links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn texts(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// What tells spans of one name apart.
const TOLD: [&str; 8] = [
    "cni.command",
    "cni.plugin",
    "shim.call",
    "oci.runtime",
    "layer.digest",
    "registry.host",
    "image.ref",
    "rpc.code",
];

/// The spans as a tree, by the time when they began: names, what tells them apart, when they began and how long they
/// took in milliseconds.
pub fn draw(spans: &[Span]) -> String {
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    let mut roots: Vec<&Span> = spans.iter().filter(|span| !known(&span.parent)).collect();
    roots.sort_by_key(|span| span.began);
    let mut drawn = String::new();
    for root in roots {
        branch(spans, root, root.began, "", "", &mut drawn);
    }
    drawn
}

fn branch(spans: &[Span], span: &Span, zero: u64, before: &str, below: &str, drawn: &mut String) {
    let told = TOLD.iter().filter_map(|name| span.attribute(name)).filter(|value| !value.is_empty());
    let told: String = told.map(|value| format!(" {}", value.get(..32).unwrap_or(value))).collect();
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let failed = if span.failed.is_some() { " FAILED" } else { "" };
    let name = format!("{before}{}{told}{failed}", span.name);
    let _ = writeln!(
        drawn,
        "{name:<64} +{:>7.1} {:>7.1}",
        ms(span.began.saturating_sub(zero)),
        ms(span.ended.saturating_sub(span.began))
    );
    let mut children: Vec<&Span> = spans.iter().filter(|child| child.parent == span.id).collect();
    children.sort_by_key(|child| child.began);
    for (number, child) in children.iter().enumerate() {
        let last = number + 1 == children.len();
        let (own, under) = if last { ("└ ", "  ") } else { ("├ ", "│ ") };
        branch(spans, child, zero, &format!("{below}{own}"), &format!("{below}{under}"), drawn);
    }
}
