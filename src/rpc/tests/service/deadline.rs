//! What a client's `grpc-timeout` does, seen by a client that keeps no time of its own.

use std::time::Duration;

use api::v1;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::{TcpListener, UnixStream};
use tonic::{Code, Status};

use crate::node::{Started, start};

/// One call with a `grpc-timeout`; how it ended.
async fn call(node: &Started, path: &str, message: Vec<u8>, timeout: &str) -> Status {
    let connection = TokioIo::new(UnixStream::connect(&node.socket).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await.unwrap();
    tokio::spawn(connection);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0][..], &length, &message].concat();
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let collected = answer.into_body().collect().await.unwrap();
    Status::from_header_map(collected.trailers().unwrap()).unwrap()
}

#[tokio::test]
async fn a_call_that_is_late_ends_with_deadline_exceeded() {
    let node = start().await;
    // A registry that takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/late:1", silent.local_addr().unwrap());
    let image = Some(v1::ImageSpec { image, ..Default::default() });
    let pull = v1::PullImageRequest { image, ..Default::default() }.encode_to_vec();
    for timeout in ["1m", "20m", "20000u"] {
        let path = "/runtime.v1.ImageService/PullImage";
        let status = tokio::time::timeout(Duration::from_secs(10), call(&node, path, pull.clone(), timeout));
        let status = status.await.unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{timeout}: {status}");
        assert!(status.message().contains("PullImage"), "{status}");
    }
    let version = v1::VersionRequest::default().encode_to_vec();
    let in_time = call(&node, "/runtime.v1.RuntimeService/Version", version, "10S").await;
    assert_eq!(in_time.code(), Code::Ok);
    assert!(
        node.metrics
            .encode(telemetry::Exposition::OpenMetrics)
            .contains(r#"rpc="PullImage",code="DEADLINE_EXCEEDED""#)
    );
}
