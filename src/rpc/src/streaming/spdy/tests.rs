//! A hand-made client: open channels, send, half-close, and see what comes back.

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
            control(RST_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 5]).to_vec(),
        ] {
            client.write_all(&bytes).await.unwrap();
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
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

#[tokio::test]
async fn nonsense_ends_the_connection_and_the_handler() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0], &[0, 0, 0, 1, 0, 0xff, 0, 0]]
    {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(bytes).await.unwrap();
        let handled = serve(server, |mut channels| async move { while channels.recv().await.is_some() {} });
        tokio::time::timeout(Duration::from_secs(5), handled).await.unwrap();
    }
}
