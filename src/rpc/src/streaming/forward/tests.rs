//! Pairing, and connections whose ends leave in either order.

use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::streaming::mux::{self, Frame, Headers, Inlet, Room};

/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(5);
const CREATION: Duration = Duration::from_secs(30);

fn channel(kind: &str, request: &str) -> (Channel, Inlet, mpsc::Receiver<Frame>) {
    let (writer, frames) = mux::writer();
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers =
        Headers::from([header("streamtype", kind), header("requestid", request), header("port", "80")]);
    let (channel, inlet) = Channel::new(1, headers, writer, &Room::default());
    (channel, inlet, frames)
}

fn half(kind: &str, request: &str) -> Channel {
    channel(kind, request).0
}

#[tokio::test]
async fn halves_find_each_other_by_request_or_by_port() {
    let now = Instant::now();
    let mut halves = Halves::new(CREATION);
    assert!(halves.add(half("error", "1"), now).unwrap().is_none());
    assert!(halves.add(half("data", "2"), now).unwrap().is_none());
    assert!(halves.add(half("error", ""), now).unwrap().is_none());
    assert!(halves.add(half("data", ""), now).unwrap().is_some(), "an old client's");
    let pair = halves.add(half("error", "2"), now).unwrap().expect("the other half of 2");
    assert_eq!(pair.data.header("streamtype"), "data");
    assert!(halves.add(half("error", "1"), now).is_err(), "two of one kind");
    assert!(halves.add(half("video", "9"), now).is_err());
    assert!(halves.add(half("data", "1"), now).unwrap().is_some(), "the first of them still counts");
    assert!(halves.waiting.is_empty());
}

#[tokio::test]
async fn a_half_that_waits_too_long_is_told_so() {
    let now = Instant::now();
    let mut halves = Halves::new(CREATION);
    let (error, _inlet, mut frames) = channel("error", "1");
    halves.add(error, now).unwrap();
    assert_eq!(halves.next_expiry(), now + CREATION);
    halves.expire(now + CREATION / 2).await;
    assert_eq!(halves.waiting.len(), 1);
    halves.expire(now + CREATION).await;
    assert!(matches!(frames.recv().await, Some(Frame::Data(1, why)) if why.ends_with(b"did not come")));
    assert_eq!(frames.recv().await, Some(Frame::End(1)));
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (dialled, mut server) = connected().await;
    let (channel, mut inlet, mut frames) = channel("data", "1");
    let answer = async {
        inlet.put(Bytes::from_static(b"question")).await;
        inlet.end();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        // The client has said all; the server only now begins.
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(frames.recv().await, Some(Frame::Data(1, Bytes::from_static(b"answer"))));
        assert_eq!(frames.recv().await, Some(Frame::End(1)));
    };
    let carried = carry(dialled, channel.incoming, channel.outgoing);
    let ((), carried) = tokio::time::timeout(SOON, async { tokio::join!(answer, carried) }).await.unwrap();
    carried.unwrap();
}

#[tokio::test]
async fn a_server_that_answers_early_and_closes_is_heard() {
    let (mut dialled, mut server) = connected().await;
    // Never read by the server: its close is a reset, and nothing can be sent to it any more.
    dialled.write_all(b"question").await.unwrap();
    server.readable().await.unwrap();
    server.write_all(b"too large").await.unwrap();
    drop(server);
    let (channel, inlet, mut frames) = channel("data", "1");
    inlet.put(Bytes::from_static(b"more of the question")).await;
    let heard = async {
        assert_eq!(frames.recv().await, Some(Frame::Data(1, Bytes::from_static(b"too large"))));
    };
    let carried = carry(dialled, channel.incoming, channel.outgoing);
    let ((), carried) = tokio::time::timeout(SOON, async { tokio::join!(heard, carried) }).await.unwrap();
    carried.unwrap_err();
}

#[tokio::test]
async fn a_reset_or_a_lost_client_ends_a_connection_that_says_nothing() {
    for lost in [false, true] {
        let (dialled, _server) = connected().await;
        let (channel, inlet, frames) = channel("data", "1");
        let leave = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            match lost {
                true => drop((inlet, frames)),
                false => inlet.reset(),
            }
        };
        let carried = carry(dialled, channel.incoming, channel.outgoing);
        let ((), carried) = tokio::time::timeout(SOON, async { tokio::join!(leave, carried) }).await.unwrap();
        carried.unwrap();
    }
}
