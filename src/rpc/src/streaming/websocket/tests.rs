//! A WebSocket client against each coding, and SPDY inside.

use std::time::Duration;

use super::*;
use crate::streaming::spdy;

/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(5);

async fn client(connection: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(connection, Role::Client, None).await
}

/// Says "hello" on standard output, then what was typed, when that has ended.
async fn echo(mut channels: mpsc::Receiver<Channel>) {
    let (mut stdin, mut stdout) = (None, None);
    while let Some(channel) = channels.recv().await {
        match channel.header("streamtype") {
            "stdin" => stdin = Some(channel.incoming),
            "stdout" => stdout = Some(channel.outgoing),
            _ => {}
        }
    }
    let (mut stdin, stdout) = (stdin.unwrap(), stdout.unwrap());
    let _ = stdout.send(Bytes::from_static(b"hello")).await;
    while let Some(bytes) = stdin.recv().await {
        if stdout.send(bytes).await.is_err() {
            return;
        }
    }
    stdout.end().await;
}

const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

#[tokio::test]
async fn a_session_says_that_it_is_open_carries_bytes_and_closes_normally() {
    let (near, far) = tokio::io::duplex(1024);
    let talk = async {
        let mut client = client(near).await;
        client.send(Message::Binary(vec![0, b'a', b'b'].into())).await.unwrap();
        // On a channel that is not open, on none, and empty: all are ignored.
        client.send(Message::Binary(vec![4, b'x'].into())).await.unwrap();
        client.send(Message::Binary(vec![200, b'x'].into())).await.unwrap();
        client.send(Message::Binary(Bytes::new())).await.unwrap();
        client.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
        client.send(Message::Binary(vec![END, 0].into())).await.unwrap();
        let mut heard = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            heard.push(message);
        }
        heard
    };
    let served = serve(far, Coding::Binary, Opening::remote(WANTED), echo);
    let (heard, ()) = tokio::time::timeout(SOON, async { tokio::join!(talk, served) }).await.unwrap();
    let pong = Message::Pong(Bytes::from_static(b"?"));
    assert!(heard.contains(&pong), "{heard:?}");
    let heard: Vec<_> = heard.into_iter().filter(|message| *message != pong).collect();
    let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
    assert_eq!(heard, [binary(&[1]), binary(b"\x01hello"), binary(b"\x01ab"), goodbye()]);
}

#[tokio::test]
async fn base64_is_text_both_ways() {
    let (near, far) = tokio::io::duplex(1024);
    let talk = async {
        let mut client = client(near).await;
        client.send(Message::Text("0AP8=".into())).await.unwrap();
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(client.next().await.unwrap().unwrap());
        }
        // A digit and no base64 ends the connection.
        client.send(Message::Text("0???".into())).await.unwrap();
        heard
    };
    let served = serve(far, Coding::Base64, Opening::remote(WANTED), echo);
    let (heard, ()) = tokio::time::timeout(SOON, async { tokio::join!(talk, served) }).await.unwrap();
    assert_eq!(heard, ["1", "1aGVsbG8=", "1AP8="].map(|text| Message::Text(text.into())));
}

#[tokio::test]
async fn hostile_bytes_end_the_connection_and_the_handler() {
    let masked = |head: &[u8]| [head, &[0; 4]].concat();
    for (what, bytes) in [
        ("a message of an exabyte", masked(&[0x82, 0xff, 0x0f, 0, 0, 0, 0, 0, 0, 0])),
        ("bytes that are not masked", vec![0x82, 1, 0]),
        ("an opcode that does not exist", masked(&[0x8b, 0x80])),
        ("a ping of 200 bytes", [masked(&[0x89, 0xfe, 0, 200]), vec![0; 200]].concat()),
        ("text that is not UTF-8", [masked(&[0x81, 0x82]), vec![0xff, 0xff]].concat()),
    ] {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(&bytes).await.unwrap();
        let served = serve(server, Coding::Binary, Opening::remote(WANTED), echo);
        assert!(tokio::time::timeout(SOON, served).await.is_ok(), "{what}");
    }
}

#[test]
fn forwarded_ports_are_told_first_on_both_their_channels() {
    let opening = Opening::forward(&[80, 0x1234]);
    let port = |id, bytes: &'static [u8]| (id, Bytes::from_static(bytes));
    let expected = [port(0, &[80, 0]), port(1, &[80, 0]), port(2, &[0x34, 0x12]), port(3, &[0x34, 0x12])];
    assert_eq!(opening.greetings(), expected);
    let only_stdin = Wanted { stdin: true, ..Wanted::default() };
    assert_eq!(Opening::remote(only_stdin).greetings(), [(ERROR, Bytes::new())]);
}

#[tokio::test]
async fn spdy_goes_through_a_tunnel_and_it_closes_normally() {
    let (near, far) = tokio::io::duplex(1024);
    let talk = async {
        let mut client = client(near).await;
        // A PING, cut in two messages.
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        client.send(Message::Binary(Bytes::copy_from_slice(&ping[..5]))).await.unwrap();
        client.send(Message::Binary(Bytes::copy_from_slice(&ping[5..]))).await.unwrap();
        let mut bytes = Vec::new();
        loop {
            match client.next().await {
                Some(Ok(Message::Binary(message))) => bytes.extend_from_slice(&message),
                Some(Ok(Message::Close(Some(close)))) => {
                    assert_eq!(close.code, CloseCode::Normal);
                    assert_eq!(bytes[..12], ping);
                    assert_eq!(bytes[12..16], [0x80, 3, 0, 7], "GOAWAY");
                }
                None => return,
                other => panic!("{other:?}"),
            }
        }
    };
    let brief = |_channels| tokio::time::sleep(Duration::from_millis(100));
    let served = tunnel(far, |inner| spdy::serve(inner, brief));
    tokio::time::timeout(SOON, async { tokio::join!(talk, served) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_input_waits_is_told_that_this_end_lives() {
    let (near, far) = tokio::io::duplex(1024);
    let deaf = |mut channels: mpsc::Receiver<Channel>| async move {
        let mut kept = Vec::new();
        while let Some(channel) = channels.recv().await {
            kept.push(channel);
        }
        tokio::time::sleep(Duration::from_secs(300)).await;
    };
    let (mut typing, mut hearing) = client(near).await.split();
    let talk = async { while typing.send(Message::Binary(vec![0; 512].into())).await.is_ok() {} };
    let hear = async {
        let mut pongs = 0;
        while let Some(Ok(message)) = hearing.next().await {
            pongs += u32::from(matches!(message, Message::Pong(_)));
        }
        pongs
    };
    let served = serve(far, Coding::Binary, Opening::remote(WANTED), deaf);
    let ((), pongs, ()) = tokio::join!(talk, hear, served);
    assert!((15..=20).contains(&pongs), "{pongs}");
}
