//! The door, over real sockets.

use std::io::{Read as _, Write as _};
use std::path::Path;

use super::*;
use crate::admin::api::PullBody;
use crate::admin::client::{self, AskError};
use crate::admin::status::Status;

struct Open {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    tcp: std::net::SocketAddr,
    shown: Arc<Shown>,
    _admin: Admin,
}

fn open() -> Open {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let unix = crate::socket::bind(&socket, 0o600, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let tcp = listener.local_addr().unwrap();
    let shown = Shown::new(Metrics::new(), "/run/x.sock".into());
    let admin = Admin::start(Arc::clone(&shown), unix, Some(listener)).unwrap();
    Open { _dir: dir, socket, tcp, shown, _admin: admin }
}

/// One HTTP/1.0 request over TCP; the whole answer.
fn http(address: std::net::SocketAddr, method: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metrics_and_health_are_served_over_tcp_and_nothing_else_is() {
    let open = open();
    open.shown.metrics.operations.start("Version").finish("OK");
    let answer = http(open.tcp, "GET", "/metrics");
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("text/plain; version=0.0.4"), "{answer}");
    let counted = "gantline_operation_duration_seconds_count{rpc=\"Version\",code=\"OK\"} 1";
    assert!(answer.contains(counted) && !answer.contains("# EOF"), "{answer}");
    assert!(http(open.tcp, "GET", "/healthz").starts_with("HTTP/1.0 200"));

    let ready = |word: &str, status: &str| {
        let answer = http(open.tcp, "GET", "/readyz");
        assert!(answer.starts_with(&format!("HTTP/1.0 {status}")) && answer.contains(word), "{answer}");
    };
    ready("starting", "503");
    open.shown.recovered();
    ready("ok", "200");
    open.shown.enter(Phase::Draining);
    open.shown.enter(Phase::Serving);
    ready("draining", "503");

    for (method, path) in [("GET", "/status"), ("POST", "/pull"), ("GET", "/debug/state"), ("GET", "/")] {
        assert!(http(open.tcp, method, path).starts_with("HTTP/1.0 404"), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_admin_socket_tells_its_status_and_refuses_work_until_the_rooms_are_open() {
    let open = open();
    let status: Status = client::get(&open.socket, "/status").await.unwrap();
    assert_eq!((status.pid, status.phase.as_str()), (std::process::id(), "starting"));
    assert!(status.node.is_none() && status.recovery_ms.is_none());

    let (events, _received) = tokio::sync::mpsc::channel::<crate::admin::api::Event>(1);
    let body = PullBody { reference: "busybox".into(), credentials: None };
    let refused = client::post(&open.socket, "/pull", &body, events).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the service answered 503 Service Unavailable: the service is starting; try again"
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_is_said() {
    let error = client::get::<Status>(Path::new("/nonexistent/admin.sock"), "/status").await.unwrap_err();
    assert!(matches!(error, AskError::NotRunning(_)));
}

#[tokio::test(flavor = "current_thread")]
async fn a_busy_main_runtime_does_not_starve_it() {
    let open = open();
    // This thread is the main runtime: blocked, nothing on it runs, and the door still answers.
    let answer = http(open.tcp, "GET", "/healthz");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}
