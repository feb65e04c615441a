//! The parts that need no container: sizes, statuses.

use std::sync::Mutex;

use super::*;
use crate::streaming::mux::{self, Frame};

#[tokio::test]
async fn sizes_are_read_however_they_are_cut() {
    let (sender, incoming) = mpsc::channel(64);
    for piece in [
        r#"{"Width":80,"He"#,
        r#"ight":24}"#,
        "\n",
        r#"{"Width":0,"Height":5}"#,
        r#"{"Width":1,"Height":2}{"Width":3,"Height":4}"#,
    ] {
        sender.send(Bytes::from(piece)).await.unwrap();
    }
    drop(sender);
    let seen = Mutex::new(Vec::new());
    sizes(Some(incoming), |width, height| {
        seen.lock().unwrap().push((width, height));
        async {}
    })
    .await;
    assert_eq!(*seen.lock().unwrap(), [(80, 24), (3, 4)]);
}

async fn said(version: Version, status: Value) -> String {
    let (writer, mut frames) = mux::writer();
    let (channel, _input) = Channel::new(1, mux::Headers::new(), writer);
    finish(channel.outgoing, version, &status).await;
    let mut text = String::new();
    loop {
        match frames.recv().await {
            Some(Frame::Data(1, bytes)) => text.push_str(str::from_utf8(&bytes).unwrap()),
            Some(Frame::End(1)) => return text,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_last_word_is_a_status() {
    let json: Value = serde_json::from_str(&said(Version::Json, exited(7)).await).unwrap();
    assert_eq!(json["reason"], "NonZeroExitCode");
    assert_eq!(json["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));
    assert_eq!(said(Version::Json, success()).await, r#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(said(Version::Text, success()).await, "");
    assert!(said(Version::Text, exited(7)).await.contains("exit status 7"));
}
