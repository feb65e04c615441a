//! A hand-made client: open channels, send, half-close, and see what comes back.

use std::time::Duration;

use super::*;

/// A compressor with the dictionary, as spdystream has it: one for the whole connection.
struct Client {
    zlib: flate2::Compress,
}

impl Client {
    fn new() -> Self {
        let mut zlib = flate2::Compress::new(flate2::Compression::best(), true);
        zlib.set_dictionary(&headers::dictionary()).unwrap();
        Self { zlib }
    }

    fn syn_stream(&mut self, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut compressed = Vec::with_capacity(4096);
        self.zlib.compress_vec(&block, &mut compressed, flate2::FlushCompress::Sync).unwrap();
        let head = [&id.to_be_bytes()[..], &[0; 6]].concat();
        control(SYN_STREAM, 0, &[&head[..], &compressed].concat()).to_vec()
    }
}

fn data(id: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    [&data_head(id, flags, bytes.len())[..], bytes].concat()
}

/// Says back on each channel what came on it, with the channel's type before it, then ends.
async fn echo(mut channels: mpsc::Receiver<Channel>) {
    for _ in 0..2 {
        let Some(mut channel) = channels.recv().await else { return };
        let kind = channel.header("streamtype").to_owned();
        let mut text = format!("{kind}:").into_bytes();
        while let Some(bytes) = channel.incoming.recv().await {
            text.extend_from_slice(&bytes);
        }
        channel.outgoing.send(text.into()).await.unwrap();
        channel.outgoing.end().await;
    }
}

#[tokio::test]
async fn channels_carry_both_ways_and_end_on_their_own() {
    let (mut client, server) = tokio::io::duplex(1024);
    let talk = async {
        let mut frames = Client::new();
        let first = frames.syn_stream(1, &[("Streamtype", "stdin"), ("port", "80")]);
        let second = frames.syn_stream(3, &[("streamType", "error")]);
        for bytes in [
            control(4, 0, &[0, 0, 0, 0]).to_vec(),
            first,
            control(PING, 0, &7_u32.to_be_bytes()).to_vec(),
            second,
            data(3, 0, b"b"),
            data(1, 0, b"a1"),
            control(9, 0, &[0; 8]).to_vec(),
            data(1, FLAG_FIN, b"a2"),
            data(3, FLAG_FIN, b""),
        ] {
            client.write_all(&bytes).await.unwrap();
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (answer, ()) = tokio::join!(talk, serve(server, echo));
    let mut writer = HeaderWriter::default();
    let mut reply =
        |id: u32| control(SYN_REPLY, 0, &[&id.to_be_bytes()[..], &writer.empty()].concat()).to_vec();
    let expected = [
        reply(1),
        control(PING, 0, &7_u32.to_be_bytes()).to_vec(),
        reply(3),
        data(1, 0, b"stdin:a1a2"),
        data(1, FLAG_FIN, b""),
        data(3, 0, b"error:b"),
        data(3, FLAG_FIN, b""),
        control(GOAWAY, 0, &[0; 8]).to_vec(),
    ]
    .concat();
    assert_eq!(answer, expected);
}

/// Reads channels and what comes on them to the end.
async fn swallow(mut channels: mpsc::Receiver<Channel>) {
    let mut kept = Vec::new();
    while let Some(channel) = channels.recv().await {
        kept.push(channel);
    }
    for channel in &mut kept {
        while channel.incoming.recv().await.is_some() {}
    }
}

#[tokio::test]
async fn hostile_bytes_end_the_connection_and_the_handler() {
    let garbage = control(SYN_STREAM, 0, &[&[0; 10][..], b"this is no zlib stream"].concat());
    let mut bomb = flate2::Compress::new(flate2::Compression::best(), true);
    bomb.set_dictionary(&headers::dictionary()).unwrap();
    let mut block = Vec::with_capacity(1 << 20);
    bomb.compress_vec(&vec![0; 16 << 20], &mut block, flate2::FlushCompress::Sync).unwrap();
    let mut lies = flate2::Compress::new(flate2::Compression::best(), true);
    lies.set_dictionary(&headers::dictionary()).unwrap();
    let mut counted = Vec::with_capacity(1024);
    lies.compress_vec(&[0xff; 12], &mut counted, flate2::FlushCompress::Sync).unwrap();
    let syn = |block: &[u8]| control(SYN_STREAM, 0, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], block].concat());
    for (what, bytes) in [
        ("a cut SYN_STREAM", Bytes::from_static(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0])),
        ("a control frame of 16 MiB", Bytes::from_static(&[0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff])),
        ("no zlib", garbage),
        ("a zlib bomb", syn(&block)),
        ("4 billion headers", syn(&counted)),
        ("HEADERS of nonsense", control(HEADERS, 0, &[0xff; 20])),
        ("SPDY 4", Bytes::from_static(&[0x80, 4, 0, 4, 0, 0, 0, 0])),
        ("an empty PING", control(PING, 0, &[])),
        ("an empty RST_STREAM", control(RST_STREAM, 0, &[])),
    ] {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(&bytes).await.unwrap();
        let handled = tokio::time::timeout(Duration::from_secs(5), serve(server, swallow)).await;
        assert!(handled.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn a_large_data_frame_is_passed_on_in_pieces_and_floods_are_answered_or_ignored() {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut read, mut write) = tokio::io::split(client);
    let bytes = vec![b'x'; 5 << 20];
    let talk = async {
        write.write_all(&Client::new().syn_stream(1, &[("streamtype", "data")])).await.unwrap();
        for _ in 0..10_000 {
            // WINDOW_UPDATE of everything, SETTINGS of nothing, data of nobody.
            write.write_all(&control(9, 0, &[0xff; 8])).await.unwrap();
            write.write_all(&control(4, 0, &[0; 4])).await.unwrap();
            write.write_all(&data(77, 0, b"lost")).await.unwrap();
            write.write_all(&control(PING, 0, &1_u32.to_be_bytes())).await.unwrap();
        }
        write.write_all(&data(1, FLAG_FIN, &bytes)).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (seen, mut sizes) = mpsc::channel(1000);
    let handler = |mut channels: mpsc::Receiver<Channel>| async move {
        let mut channel = channels.recv().await.unwrap();
        while let Some(piece) = channel.incoming.recv().await {
            seen.send(piece.len()).await.unwrap();
        }
    };
    let mut answer = Vec::new();
    let ((), (), _) =
        tokio::join!(talk, serve(server, handler), async { read.read_to_end(&mut answer).await.unwrap() });
    let (mut total, mut largest) = (0, 0);
    while let Some(size) = sizes.recv().await {
        total += size;
        largest = largest.max(size);
    }
    assert_eq!(total, bytes.len());
    assert!(largest <= PIECE);
    assert!(answer.len() >= 10_000 * 12, "every ping is answered");
}

#[tokio::test]
async fn a_reset_stream_makes_room_for_another() {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut read, mut write) = tokio::io::split(client);
    let talk = async {
        let mut frames = Client::new();
        for id in 0..2 * u32::try_from(STREAMS_MAX).unwrap() {
            let id = 2 * id + 1;
            write.write_all(&frames.syn_stream(id, &[("streamtype", "data")])).await.unwrap();
            let reset = [&id.to_be_bytes()[..], &[0, 0, 0, 5]].concat();
            write.write_all(&control(RST_STREAM, 0, &reset)).await.unwrap();
        }
        write.write_all(&control(GOAWAY, 0, &[0; 8])).await.unwrap();
    };
    let count = |mut channels: mpsc::Receiver<Channel>| async move {
        let mut count = 0;
        while let Some(channel) = channels.recv().await {
            channel.outgoing.gone().await;
            count += 1;
        }
        assert_eq!(count, 2 * STREAMS_MAX);
    };
    let drain = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await };
    let (_, (), _) = tokio::join!(talk, serve(server, count), drain);
}

#[tokio::test]
async fn streams_beyond_the_bound_are_refused_and_the_rest_goes_on() {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let (mut read, mut write) = tokio::io::split(client);
    let talk = async {
        let mut frames = Client::new();
        for id in 0..=u32::try_from(STREAMS_MAX).unwrap() {
            write.write_all(&frames.syn_stream(2 * id + 1, &[("streamtype", "data")])).await.unwrap();
        }
        // The same id again.
        write.write_all(&frames.syn_stream(1, &[])).await.unwrap();
        write.write_all(&control(PING, 0, &9_u32.to_be_bytes())).await.unwrap();
    };
    let pong = control(PING, 0, &9_u32.to_be_bytes());
    let hear = async {
        let mut answer = Vec::new();
        while !answer.ends_with(&pong) {
            assert_ne!(read.read_buf(&mut answer).await.unwrap(), 0, "the connection goes on");
        }
        answer
    };
    let serving = tokio::spawn(serve(server, swallow));
    let ((), answer) = tokio::join!(talk, hear);
    drop((read, write));
    serving.await.unwrap();
    let refused = |id: u32| control(RST_STREAM, 0, &[&id.to_be_bytes()[..], &[0, 0, 0, 3]].concat());
    for id in [2 * u32::try_from(STREAMS_MAX).unwrap() + 1, 1] {
        let frame = refused(id);
        assert!(answer.windows(frame.len()).any(|at| at == &frame[..]), "{id}");
    }
}

/// Reads one frame: its first four bytes, and its payload.
async fn frame(client: &mut tokio::io::DuplexStream) -> (u32, Vec<u8>) {
    let mut head = [0; 8];
    client.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
    client.read_exact(&mut payload).await.unwrap();
    (u32::from_be_bytes([head[0], head[1], head[2], head[3]]), payload)
}

#[tokio::test]
async fn a_client_that_keeps_windows_gets_no_more_than_they_allow_and_its_own_back() {
    const TAKEN: usize = 40_000;
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let talk = async {
        let mut frames = Client::new();
        // One setting: an initial window of five bytes.
        let initial =
            [&1_u32.to_be_bytes()[..], &INITIAL_WINDOW.to_be_bytes(), &5_u32.to_be_bytes()].concat();
        for bytes in [
            control(SETTINGS, 0, &initial).to_vec(),
            frames.syn_stream(1, &[("streamtype", "stdin")]),
            frames.syn_stream(3, &[("streamtype", "error")]),
            data(1, 0, &vec![b'x'; TAKEN / 2]),
            data(1, 0, &vec![b'x'; TAKEN / 2]),
            data(1, FLAG_FIN, b"y"),
        ] {
            client.write_all(&bytes).await.unwrap();
        }
        let mut given_back = 0;
        let first = loop {
            match frame(&mut client).await {
                (1, payload) => break payload,
                (kind, payload) if kind == 0x8003_0000 | u32::from(WINDOW_UPDATE) => {
                    assert_eq!(payload[..4], 1_u32.to_be_bytes());
                    given_back += be32(&payload, 4).unwrap() as usize;
                }
                _ => {}
            }
        };
        assert_eq!(first, b"stdin");
        assert!(given_back >= TAKEN / 2, "{given_back}");
        let nothing = tokio::time::timeout(Duration::from_millis(50), frame(&mut client)).await;
        assert!(nothing.is_err(), "no more than it allows");
        client.write_all(&window_update(1, 3)).await.unwrap();
        assert_eq!(frame(&mut client).await, (1, b":xx".to_vec()));
        client.write_all(&window_update(1, 1 << 20)).await.unwrap();
        assert_eq!(frame(&mut client).await.1.len(), TAKEN + 1 - 2);
    };
    let served = serve(server, echo);
    let talk = async {
        tokio::time::timeout(Duration::from_secs(10), talk).await.unwrap();
    };
    // The session ends with the client.
    tokio::select! {
        () = talk => {}
        () = served => panic!("it ended early"),
    }
}
